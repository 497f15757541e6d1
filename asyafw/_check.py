def problems(a, f, k): return []
