"""The components of the miniature study: a tokenizer, a tiny CLIP and a tiny Mistral or LLaMA, made in about a minute.

They stand in for `openai/clip-vit-large-patch14-336` and `mistralai/Mistral-7B-Instruct-v0.2` and are saved in the
same form, so that `llava-mistral build` loads either without a difference:

    tokenizer/   vision/   mistral/   llama/

    python -m llava_mistral.miniature.components --data outputs/digitsqa --config miniature/components --output
    outputs/components
"""

import json
import random
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llava_mistral.data.scienceqa import INSTRUCTION, answer_text, question_text, read_problems
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.recipe_files import read_yaml, recipe_file

BAG = 16  # words before a caption: as many as the tower has patches


@dataclass
class ComponentsConfig:
    """What is made; sizes are those of the transformers configurations they fill.

    Args:
        vocab_size: at most this many tokens, 256 of which are bytes.
        clip_vision, clip_text: fields of `CLIPVisionConfig` and `CLIPTextConfig`.
        clip_epochs: passes over the alignment pairs.
        text: fields of `MistralConfig`; the LLaMA twin takes those that `LlamaConfig` has.
        backbones: which text models to make.
        text_epochs: passes over the captions, lectures and text-only questions.
        clip_batch_size, text_batch_size: samples per step.
        learning_rate: of AdamW (embeddings, norms, heads).
        matrix_learning_rate: of Muon (the weight matrices of the layers).
        seed: of initial weights and order.
    """

    vocab_size: int = 768
    clip_vision: dict = field(default_factory=dict)
    clip_text: dict = field(default_factory=dict)
    clip_epochs: int = 16
    text: dict = field(default_factory=dict)
    backbones: list[str] = field(default_factory=lambda: ["mistral"])
    text_epochs: int = 8
    clip_batch_size: int = 128
    text_batch_size: int = 64
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 1e-2
    seed: int = 0

    @classmethod
    def from_yaml(cls, path: str | Path) -> "ComponentsConfig":
        """Read a recipe; raises `BadInput` for a key that does not exist."""
        values = read_yaml(recipe_file(path))
        for key in values:
            if key not in cls.__dataclass_fields__:
                known = ", ".join(cls.__dataclass_fields__)
                raise BadInput("there is no such key", remedy=f"use one of {known}", file=path, field=key)
        return cls(**values)


def text_documents(problems: list, captions: list[str], seed: int = 0) -> list[tuple[str, str]]:
    """What the text model reads before it ever sees: `(given, to learn)` pairs of captions, lectures and questions.

    A question without a picture is worded as it will be asked, and only its answer is learned; of a lecture, and of a
    solution after its hint, every word is. Each caption also follows its own words in disorder, some of them several
    times: that is how patches will bring them, and a text model of three layers does not learn to read so from the
    projector alone.
    """
    rng = random.Random(seed)
    distinct = sorted(set(captions))
    disordered = [(" ".join(rng.choices(_words(caption), k=BAG)), caption) for caption in distinct for _ in range(2)]
    lectures = {("", problem.lecture) for problem in problems}
    solutions = {("", f"{problem.hint} {problem.solution}".strip()) for problem in problems if not problem.has_image}
    questions = [(question_text(problem), answer_text(problem)) for problem in problems if not problem.has_image]
    return [("", f"{bag} {caption}") for bag, caption in disordered] + sorted(lectures | solutions) + questions


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z]+", caption)


def train_tokenizer(texts: list[str], vocab_size: int):
    """A byte-fallback BPE with Mistral's conventions: `▁` for a space, one before every piece, no token across words.

    The ids 0 to 3 are `<unk>`, `<s>`, `</s>` and `<pad>`; the image token is added by `llava-mistral build`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Words, digits and punctuation stay apart. What every prompt repeats (the marks of the template, the instruction,
    # the letters of the choices) may become one token each: half the length, and half the time, of a small model's
    # prompt.
    phrases = rf"▁?\[/?INST\]|\n{re.escape(INSTRUCTION).replace(chr(92) + ' ', '▁')}|\n[A-Z]\."
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{phrases}|▁?[A-Z]?[a-z]+|▁?[^\n]|\n"), behavior="isolated")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[*specials, *byte_tokens], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = None  # Mistral's has none; no merge across a boundary was learned, so none is needed
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def train_clip(pictures, captions: list[str], tokenizer, config: ComponentsConfig):
    """Contrast `pictures` `(pairs, 3, side, side)` with their captions; returns a `CLIPModel`.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. Equal captions in a
    batch share the target, because there are only ten digits to be alone in a picture. Beside the class token, the
    mean of the patch features that LLaVA reads (layer -2) is contrasted, too: in 24 layers every patch comes to know
    the whole picture, in four it has no reason to.
    """
    import torch
    from torch.nn.functional import normalize
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(config.seed)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in captions]
    length = max(map(len, ids)) + 2
    end = tokenizer.pad_token_id  # CLIP reads the sentence at the first end token, so padding may repeat it
    input_ids = torch.tensor([[tokenizer.bos_token_id, *row] + [end] * (length - 1 - len(row)) for row in ids])
    same = {text: number for number, text in enumerate(sorted(set(captions)))}
    group = torch.tensor([same[text] for text in captions])
    clip_text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
        **config.clip_text,
    }
    clip = CLIPModel(CLIPConfig(text_config=clip_text, vision_config=config.clip_vision, projection_dim=64))
    wobble = torch.Generator().manual_seed(config.seed)

    def loss_of(batch):
        tower = clip.vision_model(pixel_values=_jiggle(pictures[batch], wobble), output_hidden_states=True)
        patches = clip.vision_model.post_layernorm(tower.hidden_states[-2][:, 1:].mean(1))
        words = normalize(clip.get_text_features(input_ids=input_ids[batch]).pooler_output, dim=-1)
        target = (group[batch][:, None] == group[batch][None]).float()
        target = target / target.sum(1, keepdim=True)
        loss = 0.0
        for seen in (tower.pooler_output, patches):
            logits = clip.logit_scale.exp() * normalize(clip.visual_projection(seen), dim=-1) @ words.t()
            loss = loss - (target * (logits.log_softmax(1) + logits.t().log_softmax(1))).sum(1).mean() / 4
        return loss

    ones = torch.ones(len(captions))
    _fit(clip, loss_of, ones, config.clip_epochs, config.clip_batch_size, config, "tiny CLIP")
    return clip


def _jiggle(pictures, wobble):
    """Turn each picture by up to 10 degrees, scale it by up to a tenth and shift it by up to a twelfth of its side.

    There are 1,199 scans to learn from, and the tower knows them by heart before it knows the digits.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    turn, scale, right, down = (2 * torch.rand(4, len(pictures), generator=wobble) - 1).unbind()
    turn, scale = turn * 0.17, 1 + scale * 0.1
    rows = [scale * turn.cos(), -scale * turn.sin(), right / 6, scale * turn.sin(), scale * turn.cos(), down / 6]
    where = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pictures.shape), align_corners=False)
    return grid_sample(pictures, where, padding_mode="border", align_corners=False)


def pretrain_text_model(documents: list[tuple[str, str]], tokenizer, model_type: str, config: ComponentsConfig):
    """Predict the next token over `documents` (given, to learn); returns a Mistral or LLaMA causal language model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(config.seed)
    specials = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = AutoConfig.for_model(model_type).to_dict()
    sizes = {key: value for key, value in config.text.items() if key in known}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **specials, **sizes)
    )
    rows = [_encode(given, learned, tokenizer) for given, learned in documents]

    def loss_of(batch):
        picked = [rows[index] for index in batch.tolist()]
        longest = max(len(ids) for ids, _ in picked)
        input_ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in picked])
        labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in picked])
        return model(input_ids=input_ids, attention_mask=input_ids != tokenizer.pad_token_id, labels=labels).loss

    lengths = torch.tensor([len(ids) for ids, _ in rows])
    _fit(model, loss_of, lengths, config.text_epochs, config.text_batch_size, config, f"tiny {model_type}")
    return model


def _encode(given: str, learned: str, tokenizer) -> tuple[list[int], list[int]]:
    """Token ids and labels; a question stands between the marks of `mistral_instruct`, as it will with a picture."""
    prompt = f"[INST] {given} [/INST]" if given else ""
    text = f"{prompt} {learned} " if given else learned
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids if given else []
    ids = tokenizer(text, add_special_tokens=False).input_ids
    labels = [-100] * len(prompt_ids) + ids[len(prompt_ids) :]
    end = tokenizer.eos_token_id
    return [tokenizer.bos_token_id, *ids, end], [-100, *labels, end]


def _fit(model, loss_of, lengths, epochs: int, batch_size: int, config: ComponentsConfig, name: str) -> None:
    """Muon for the layers' matrices and AdamW for the rest, one cycle; several times quicker here than AdamW alone.

    `lengths` `(rows,)` are the rows' sizes: a batch is made of rows of about the same, so that little of it is
    padding.
    """
    import torch
    from tqdm import tqdm

    matrices = [weight for key, weight in model.named_parameters() if weight.ndim == 2 and ".layers." in key]
    others = [weight for key, weight in model.named_parameters() if not (weight.ndim == 2 and ".layers." in key)]
    optimizers = [torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))]
    optimizers.append(torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.0, ns_steps=4))
    steps_per_epoch = len(lengths) // batch_size
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            optimizer.param_groups[0]["lr"],
            total_steps=epochs * steps_per_epoch,
            pct_start=0.1,
            cycle_momentum=False,
        )
        for optimizer in optimizers
    ]
    order = torch.Generator().manual_seed(config.seed)
    model.train()
    with tqdm(total=epochs * steps_per_epoch, desc=name, unit="step") as bar:
        for _ in range(epochs):
            rows = torch.randperm(len(lengths), generator=order)[: steps_per_epoch * batch_size]
            by_length = rows[torch.argsort(lengths[rows], stable=True)].view(steps_per_epoch, batch_size)
            for batch in by_length[torch.randperm(steps_per_epoch, generator=order)]:
                loss = loss_of(batch)
                model.zero_grad()
                loss.backward()
                for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                    optimizer.step()
                    scheduler.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
    model.eval()


def make_components(data: Path, config: ComponentsConfig, folder: Path) -> dict[str, int]:
    """Train all components on the DigitsQA folder `data`, save them below `folder`; returns parameter counts."""
    import torch
    from PIL import Image
    from tqdm import tqdm
    from transformers import LlavaImageProcessorPil

    problems = read_problems(data, split="train")
    pairs = json.loads((data / "alignment" / "alignment.json").read_text(encoding="utf-8"))
    captions = [pair["conversations"][1]["value"] for pair in pairs]
    documents = text_documents(problems, captions, config.seed)
    wordings = [question_text(problem) for problem in problems] + [f"[INST] {caption} [/INST]" for caption in captions]
    tokenizer = train_tokenizer([*wordings, *(learned for _, learned in documents)], config.vocab_size)
    tokenizer.save_pretrained(folder / "tokenizer")

    side = config.clip_vision["image_size"]
    look = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    files = [data / "alignment" / "images" / pair["image"] for pair in pairs]
    pictures = torch.cat(
        [
            look(Image.open(file), return_tensors="pt").pixel_values
            for file in tqdm(files, desc="pictures", unit="picture")
        ]
    )
    clip = train_clip(pictures, captions, tokenizer, config)
    clip.save_pretrained(folder / "vision")
    look.save_pretrained(folder / "vision")
    counts = {"vision": sum(weight.numel() for weight in clip.parameters())}
    for model_type in config.backbones:
        model = pretrain_text_model(documents, tokenizer, model_type, config)
        model.save_pretrained(folder / model_type)
        tokenizer.save_pretrained(folder / model_type)
        counts[model_type] = sum(weight.numel() for weight in model.parameters())
    (folder / "components.json").write_text(
        json.dumps({"config": asdict(config), "parameters": counts}, indent=1) + "\n"
    )
    return counts


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, whole_folder

    parser = VerbParser(
        prog="llava_mistral.miniature.components", description="Make the miniature study's tokenizer and models."
    )
    parser.add_argument("--data", required=True, type=Path, help="DigitsQA folder")
    parser.add_argument("--config", required=True, help="YAML recipe, such as miniature/components")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--backbones", nargs="+", choices=["mistral", "llama"], help="in place of the recipe's")
    args = parser.parse_args()
    if not (args.data / "alignment" / "alignment.json").is_file():
        raise BadInput("there is no alignment/alignment.json in it", remedy="build DigitsQA first", file=args.data)
    config = ComponentsConfig.from_yaml(args.config)
    config.backbones = args.backbones or config.backbones
    with whole_folder(args.output, "components.json") as folder:
        counts = make_components(args.data, config, folder)
    print(f"{args.output}: " + ", ".join(f"{name} {count:,} parameters" for name, count in counts.items()))


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
