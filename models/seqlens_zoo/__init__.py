"""The example models of SeqLens: their task, bodies, training, evaluation and export.

Each task has a package of its own (`antecedent`); the bodies are shared by all tasks.
"""
