"""Answer chats with llama.cpp's own server: python llama_cpp_chat.py REQUEST.json ANSWER.json"""

import json
import sys
import urllib.request
from pathlib import Path

if __name__ == "__main__":
    import xllamacpp

    request = json.loads(Path(sys.argv[1]).read_text())
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(request["model"]) / "model.gguf")
    params.mmproj.path = str(Path(request["model"]) / "mmproj.gguf")
    params.n_ctx, params.n_parallel, params.warmup = request["context"], 1, False
    params.use_jinja = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more wait for each other, spinning
    server = xllamacpp.Server(params)

    def ask(path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        asked = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.load(answer)

    answers = []
    for chat in request["chats"]:
        sampling = {"temperature": 0, "max_tokens": request["new_tokens"], "cache_prompt": False}
        said = ask("/v1/chat/completions", {"messages": chat, **sampling})
        answers.append(
            {"text": said["choices"][0]["message"]["content"] or "", "prompt_tokens": said["usage"]["prompt_tokens"]}
        )
    texts = [
        ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
        for text in request.get("texts", ())
    ]
    Path(sys.argv[2]).write_text(json.dumps({"answers": answers, "tokens": texts}))
