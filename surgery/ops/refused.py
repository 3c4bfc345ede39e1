"""Ops that no rule can follow to every position, each with the reason and a cure."""

from surgery.rules import geometry, lift

REASONS = {
    ("LSTM", "GRU", "RNN"): (
        "it runs over a sequence in order, and every window would be a sequence of its own. Run it window by "
        "window behind a model that ends before it"
    ),
    ("NonMaxSuppression",): (
        "the number of boxes it keeps depends on the data: a detector. Cut the model before its boxes; its "
        "maps answer for any image size already"
    ),
    (
        "RoiAlign",
        "MaxRoiPool",
    ): "it reads boxes that depend on the image: a detector. Cut the model before them",
    ("If",): (
        "the image decides which branch runs, and at each position another may. Export the model with the "
        "branch taken"
    ),
    ("Loop", "Scan"): "the body runs a number of times; export the model with the loop unrolled",
    ("NonZero", "Unique", "Compress"): "the size of what it gives depends on the data",
    ("Scatter", "ScatterElements", "ScatterND", "GatherND"): (
        "it reads or writes places counted through the whole tensor, the batch among them"
    ),
    ("ReverseSequence",): "it reverses sequences of lengths of their own",
    ("Attention", "RotaryEmbedding"): (
        "it works on tokens: a transformer, whose positions have embeddings of the window's size. Run it "
        "window by window"
    ),
}

NCHWC = ("Conv", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Upsample")

for _names, _why in REASONS.items():
    for _table in (geometry, lift):
        _table.refuse(*_names, why=_why)
for _table in (geometry, lift):
    _table.refuse(
        *NCHWC,
        "ReorderInput",
        "ReorderOutput",
        domain="com.microsoft.nchwc",
        why="onnxruntime has optimized the model for one processor. Convert the model that was exported, or "
        "save it with the graph optimization level 'extended' at most",
    )
