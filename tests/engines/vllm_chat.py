"""Answer chats with vLLM's `LLM.chat`: python vllm_chat.py REQUEST.json ANSWER.json"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text())
    from vllm import LLM, SamplingParams

    model = LLM(
        model=request["model"],
        trust_remote_code=not request.get("own_classes"),
        dtype="float32",
        max_model_len=request["context"],
        enforce_eager=True,
        limit_mm_per_prompt={"image": 2},
    )
    sampling = SamplingParams(temperature=0, max_tokens=request["new_tokens"])
    outputs = model.chat(request["chats"], sampling, use_tqdm=False)
    answers = [
        {
            "prompt": list(output.prompt_token_ids),
            "ids": list(output.outputs[0].token_ids),
            "text": output.outputs[0].text,
        }
        for output in outputs
    ]
    Path(sys.argv[2]).write_text(json.dumps(answers))
