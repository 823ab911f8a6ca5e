def train_unigram(texts, config): raise NotImplementedError
