"Attention operators: tensors in, tensors out"
