"""How the model learns: what each stage trains, and the small components the miniature study starts from."""
