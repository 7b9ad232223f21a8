"""How good is it: metrics as pure functions, and the benchmarks that apply them."""
