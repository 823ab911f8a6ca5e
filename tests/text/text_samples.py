"""Texts in several scripts and a config of every kind, for the tests beside this file."""

from encoderkit.text.config import TokenizerConfig

CHINESE = """春天来了，山上的雪慢慢化了，河水变得又清又急。村里的孩子们脱下棉衣，跑到田野里放风筝。
老人坐在门口晒太阳，说今年的收成一定比去年好。二〇二四年，这里修了一条新路，汽车可以一直开到山脚下。
人们用手机看新闻、买东西，也用它和在外地工作的亲人说话。GPU 很贵，所以我们在两个 CPU 上训练模型。
他问：“你为什么喜欢读书？”她笑着回答：“因为书里有许多我没有去过的地方。”
天气预报说明天下雨，气温下降到5度左右；请大家出门带伞，注意安全！（本报记者）"""

MIXED = [
    "Café naïve, e\u0301te\u0301; résumé!",
    "🙂 smile 👍🏽 ❤️ done",
    "iPhone14在中国卖3.5万台。",
    "ﬁne ＡＢＣ１２３",
    "한국어 문장",
    "ひらがなとカタカナ",
]

CONFIGS = {
    "wordpiece": TokenizerConfig(kind="wordpiece", vocab_size=1500),
    "wordpiece-uncased": TokenizerConfig(kind="wordpiece", vocab_size=1500, lowercase=True, strip_accents=True),
    "wordpiece-keep": TokenizerConfig(kind="wordpiece", vocab_size=1500, chinese="keep"),
    "bpe": TokenizerConfig(kind="bpe", vocab_size=900, nfkc=False),
    "bpe-nfkc": TokenizerConfig(kind="bpe", vocab_size=900),
    "bpe-split": TokenizerConfig(kind="bpe", vocab_size=900, chinese="split", lowercase=True),
    "unigram": TokenizerConfig(kind="unigram", vocab_size=1200),
    "unigram-bytes": TokenizerConfig(kind="unigram", vocab_size=1200, byte_fallback=True, lowercase=True, strip_accents=True),
    "unigram-split": TokenizerConfig(kind="unigram", vocab_size=1200, chinese="split", alphabet=200),
    "word": TokenizerConfig(kind="word", vocab_size=800, lowercase=True),
    "char": TokenizerConfig(kind="char", vocab_size=600),
}
