"""`fidelity`: how true a twin is, against its limits and against others."""
