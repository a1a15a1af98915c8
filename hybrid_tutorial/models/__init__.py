"Models: mixers over the operators, weight transfer, the hybrid itself, and teachers."
