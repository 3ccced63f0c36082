"""Kernels around the products of an expert layer."""
