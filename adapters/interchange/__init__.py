"""How the built-in methods are stored by PEFT and AdapterHub."""
