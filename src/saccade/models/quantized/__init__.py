"""Networks that compute as in 8 bits, made from the graph of any other network."""
