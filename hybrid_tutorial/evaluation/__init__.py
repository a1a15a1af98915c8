"How good is a model: language, recall, speed and memory"
