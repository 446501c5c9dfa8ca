"""transformers' own Trainer goes on from a checkpoint that somebody damaged: what becomes of the model."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

STEPS, SAVED = 6, 3


def resumed(folder: Path, damage: Callable[[Path], None]) -> str:
    """Train a tiny LLaMA whole, and again from its damaged checkpoint; say whether the weights are the same."""
    whole = _train(folder / "whole")
    shutil.copytree(folder / "whole", folder / "again")
    damage(folder / "again" / f"checkpoint-{SAVED}")
    shutil.rmtree(folder / "again" / f"checkpoint-{STEPS}")
    again = _train(folder / "again", resume=True)
    return f"goes on without a word, to {'the same' if again == whole else 'another'} model"


def _train(output: Path, resume: bool = False) -> str:
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    set_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, attention_dropout=0.1, **small))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (2 * STEPS, 8), generator=generator).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    given = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": SAVED}
    given |= {"learning_rate": 1e-2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    trainer = Trainer(model, TrainingArguments(str(output), **given), train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume or None)
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()
