"""Every key of SFTConfig: obeyed, refused because it would have no effect here or a wrong one, or harmless.

A test walks the fields of the installed SFTConfig: a key that a new TRL or transformers brings is in none of the
tables and fails it, so that somebody has to look what the key does here.
"""

from collections.abc import Iterable
from difflib import get_close_matches

# How other trainers call what is meant; a name that is merely misspelt is found by its letters.
ELSEWHERE = {
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "model": "model_name_or_path",
    "model_path": "model_name_or_path",
    "data": "dataset",
    "data_path": "dataset",
    "dataset_name": "dataset",
    "output": "output_dir",
    "device": "use_cpu",
    "lora_rank": "lora_r",
    "warmup_ratio": "warmup_steps",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
}
# Read by transformers' Trainer, TRL's SFTTrainer or accelerate as their documentation says, packed or padded.
_OBEYED = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor
    loss_type neftune_noise_alpha bf16 fp16 tf32 activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs activation_offloading torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name
    project trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay
    per_device_eval_batch_size eval_on_start save_strategy save_steps save_total_limit load_best_model_at_end
    metric_for_best_model greater_is_better full_determinism seed data_seed use_cpu dataloader_drop_last
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context train_sampling_strategy ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics
"""
OBEYED = frozenset(_OBEYED.split())

_TEXTS = "rows are worded by the chat template, not prepared by TRL"
_LOSS_ONLY = "an evaluation measures the loss alone, and answers held-out rows (--sample_answers)"
_PUBLISH = "publish the finished folder with llava-mistral publish"
_TOKENIZER = "the checkpoint's own tokenizer decides"
# key -> what to do instead. Their defaults, false and null are accepted, since that is what happens.
REFUSED = {
    "resume_from_checkpoint": "leave it out: the same command goes on from its own last whole checkpoint",
    "max_length": "leave it out: cutting a row would cut its picture; drop the rows that are too long",
    "truncation_mode": "leave it out: no row is cut",
    "push_to_hub": "leave it out, and publish the finished folder with llava-mistral publish",
    "hub_token": "leave it out: it would be written beside the weights; llava-mistral publish takes HF_TOKEN",
    **dict.fromkeys(
        ("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        f"leave it out; {_PUBLISH}",
    ),
    **dict.fromkeys(("packing", "padding_free"), "leave it out: packed, which is on by default, does without padding"),
    **dict.fromkeys(
        ("packing_strategy", "eval_packing"), "leave it out: --packed lays samples end to end, and cuts none"
    ),
    "pad_to_multiple_of": "leave it out: packed rows have no padding, padded ones are as long as their longest sample",
    "completion_only_loss": "leave it out: the loss is on the assistant's words of a completion, always",
    "assistant_only_loss": "leave it out: the loss is on the assistant's words of a completion, always",
    **dict.fromkeys(
        ("dataset_text_field", "dataset_kwargs", "dataset_num_proc"), f"leave it out: {_TEXTS}; see --columns"
    ),
    "shuffle_dataset": "leave it out: the order of an epoch is drawn with --seed or --data_seed",
    "chat_template_path": "use --chat_template",
    **dict.fromkeys(("eos_token", "pad_token"), f"leave it out: {_TOKENIZER}"),
    "model_init_kwargs": "leave it out: name the checkpoint with --model_name_or_path and --model_revision",
    "trust_remote_code": "leave it out: give a Hub checkpoint's commit with --model_revision",
    "router_aux_loss_coef": "leave it out: neither Mistral nor LLaMA has experts",
    "auto_find_batch_size": "leave it out: the record would name another batch; --plan names one that fits",
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), "leave it out: Liger has no kernels for this model"),
    "use_cache": "leave it out: training keeps no keys and values",
    **dict.fromkeys(
        (
            *("include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object"),
            *("eval_accumulation_steps", "bf16_full_eval", "fp16_full_eval", "label_names"),
        ),
        f"leave it out: {_LOSS_ONLY}",
    ),
    "save_only_model": "leave it out: a run could not go on from such a checkpoint",
    "save_on_each_node": "leave it out: the output folder is one, shared by all nodes",
    "enable_jit_checkpoint": "leave it out: SIGTERM saves a checkpoint anyway",
    "ignore_data_skip": "leave it out: a run that goes on would see samples twice",
    "restore_callback_states_from_checkpoint": "leave it out: no callback here has a state",
    "accelerator_config": "leave it out: how samples are dealt to batches and processes is fixed, so that runs go on",
    "parallelism_config": "leave it out: several GPUs train by DDP, FSDP2 or ZeRO; see recipes/accelerate",
    "dataloader_in_order": "leave it out: batches come in the order of their step, so that runs go on",
    "length_column_name": "leave it out: rows have no such column; packed rows are dealt by length as they are",
    "remove_unused_columns": "leave it out: a batch needs all columns of its rows",
    **dict.fromkeys(("do_eval", "do_predict"), "leave it out: --eval_dataset and --eval_strategy evaluate"),
}
# Where not only the default, false and null say what happens: the values that do.
ACCEPTED = {"max_length": (None,), "remove_unused_columns": (False,), "completion_only_loss": (None, True)}

# Without effect on a run, and yet nothing that anybody could be misled by.
HARMLESS = {
    "do_train": "the command always trains",
    "prediction_loss_only": "an evaluation predicts nothing but the loss, whatever this says",
    "local_rank": "launchers pass it; the process finds its place in the environment",
}

# Of StageArguments and SFTConfig: what may differ between a checkpoint and the run that goes on from it. All else is
# part of the run's identity.
_SHOWN = "what is logged, and where to, does not affect the weights"
_EVALUATED = "an evaluation gives every random generator back as it found it"
_COMPARED = "the rows themselves are compared, picture by picture"
_STORED = "how often and how many checkpoints are kept does not affect the weights"
_LOADED = "batches are the same whoever prepares them"
_PLANNED = "used by the plan only"
BESIDE_IDENTITY = {
    **dict.fromkeys(
        ("dataset", "dataset_split", "dataset_config", "conversations", "image_folder", "columns"), _COMPARED
    ),
    **dict.fromkeys(("check_pictures", "on_bad_sample", "max_bad_samples"), _COMPARED),
    "chat_template": "the words of the template are compared, wherever its file lies",
    "may_drop_question": "permits a template, which is compared itself",
    "held_out": _COMPARED,
    **dict.fromkeys(("eval_dataset", "eval_split", "sample_answers"), _EVALUATED),
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_eval"), _EVALUATED),
    **dict.fromkeys(("per_device_eval_batch_size", "prediction_loss_only"), _EVALUATED),
    **dict.fromkeys(("vision_cache", "vision_cache_gb"), "stored features are the bits that the tower gives"),
    "frozen_dtype": "16 bits are kept where they lose nothing",
    "force_resume": "allows a difference",
    **dict.fromkeys(("plan", "plan_gpu", "plan_gpus", "force_fit", "peak_tflops"), _PLANNED),
    **dict.fromkeys(("output_dir", "run_name", "do_train", "local_rank"), "names and places"),
    **dict.fromkeys(("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node"), _SHOWN),
    **dict.fromkeys(("logging_nan_inf_filter", "log_level", "log_level_replica", "disable_tqdm"), _SHOWN),
    **dict.fromkeys(("report_to", "project", "trackio_space_id", "trackio_bucket_id"), _SHOWN),
    **dict.fromkeys(("trackio_static_space_id", "include_num_input_tokens_seen", "skip_memory_metrics"), _SHOWN),
    **dict.fromkeys(("save_strategy", "save_steps", "save_total_limit"), _STORED),
    **dict.fromkeys(("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"), _LOADED),
    **dict.fromkeys(("dataloader_prefetch_factor", "dataloader_multiprocessing_context"), _LOADED),
    "ddp_timeout": "how long a process waits for the others",
    "use_cpu": "where it is computed, as the machine itself; the record names it",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The key that `name` most likely means: as others call it, by its initials, its letters or its words."""
    name, known = str(name).removeprefix("no_"), sorted(known)
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    initials = [key for key in known if "_" in key and "".join(word[0] for word in key.split("_")) == name]
    if initials:
        return initials[0]
    if close := get_close_matches(name, known, 1, 0.75):
        return close[0]
    words = [key for key in known if set(name.split("_")) <= set(key.split("_"))]
    return min(words, key=len) if words else (get_close_matches(name, known, 1, 0) or ["another"])[0]
