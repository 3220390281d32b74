"""How much Kilograd takes: checked before work begins.  docs/limits.md says why, line by line."""

from __future__ import annotations

# Files, in bytes.
GRAPH_BYTES = 1 << 24
TENSOR_BYTES = 1 << 28
CARD_BYTES = 1 << 20
PLAN_BYTES = 1 << 24
ADAPTED_BYTES = 1 << 28
CONTRIBUTION_BYTES = 1 << 24
EPISODE_BYTES = 1 << 28
RECORD_BYTES = 1 << 24
LIST_BYTES = 1 << 28
PULLED_BYTES = 1 << 24
CHECKPOINT_BYTES = 1 << 32
IMAGE_BYTES = 1 << 27
PARQUET_BYTES = 1 << 33
RESULT_BYTES = 1 << 29
RESULT_VALUE_BYTES = 1 << 16

# Names, in characters.
IDENTIFIER_LENGTH = 128
LABEL_LENGTH = 200
PATH_LENGTH = 500

# Networks.
OPERATORS = 1 << 12
INPUTS = 256
NODES = 1 << 14
SIDE = 32767
SHARPNESS = 1024.0
RESIZE = 2048
NORMAL = 65536.0
MAP_ELEMENTS = 1 << 28

# Data sets.
PIXELS = 1 << 26
SCANS = 100
SEGMENTS = 1 << 9
IMAGES = 1 << 21
CLASSES = 1 << 16

# Tasks and training.
WAYS = 1 << 12
SEED = (1 << 31) - 1
EPISODES = 1 << 16
COUNT = 1 << 24
RATE = 1000.0
CODE_RATE = 1e9
NORMED_RATE = 1.0
TESTED_PASSES = 1 << 11
JOBS = 1 << 12
RESULT_ROWS = 1 << 19
RESULT_SETTINGS = 1 << 14
TRIALS = 1 << 12
