"""Adapters of PEFT and AdapterHub, in and out."""
