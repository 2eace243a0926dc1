"""What methods need to be exchanged with PEFT and AdapterHub: typed configurations, tracked tensors and ports."""
