"""Patterns of secrets and local paths, also in disguised spellings (hexadecimal, joined strings)."""

import re
import unicodedata
from urllib.parse import unquote

# The shapes of tokens as their issuers document them; the lengths keep ordinary words (`sk-learn`, `hf_model`) out. No
# repetition is without an end, so that the time of a search grows with the text and not with its square.
SECRETS = {
    "a Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{30}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}\b",
    "an Azure key": r"\bAccountKey=[A-Za-z0-9+/]{40}",
    "a private key": r"-----BEGIN (?:[A-Z]{1,20} ){0,4}PRIVATE KEY-----",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40})",
    "a GitLab token": r"\bgl(?:pat|dt|rt|ptt|soat)-[A-Za-z0-9_-]{20}",
    "an OpenAI or Anthropic key": r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{40}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}\b|\bya29\.[0-9A-Za-z_-]{20}",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{20}",
    "a Weights & Biases key": r"(?i:wandb)(?!.{0,60}(?:commit|revision|sha))[^\n]{0,60}?\b[0-9a-f]{40}\b"
    r"|\bwandb_v1_\w{20}",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50}",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}",
    "a Stripe key": r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{20}",
    "a Databricks token": r"\bdapi[0-9a-f]{32}",
    "a Replicate token": r"\br8_[A-Za-z0-9]{30}",
    "a Docker token": r"\bdckr_pat_[A-Za-z0-9_-]{20}",
    "a SendGrid key": r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16}",
    "a Telegram token": r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}",
    "a JSON web token": r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,4000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8}",
    "a bearer token": r"(?i:\bbearer)\s{1,3}(?=[A-Za-z._~+/=-]{0,200}\d)[A-Za-z0-9._~+/=-]{20}",
    "a basic authorisation": r"(?i:\bauthorization\W{1,5}basic)\s{1,3}[A-Za-z0-9+/=]{8}",
    "a login by ssh": r"\bssh://(?!git@)[\w.-]{1,60}@[\w.-]{1,100}",
    "a netrc entry": r"\bmachine\s{1,9}\S{1,200}\s{1,9}login\s{1,9}\S{1,200}\s{1,9}password\s{1,9}\S{3}",
    "a key of the environment": (
        r"\b[A-Z][A-Z0-9_]{0,60}(?:_KEY|TOKEN|SECRET|PASSWORD)[\"']?\s{0,3}[=:]\s{0,3}[\"']?"
        r"(?=[A-Za-z_-]{0,100}\d)[A-Za-z0-9_-]{16}"
    ),
    "a password in an address": r"\b[a-z][a-z0-9+]{0,15}://[^/\s:@'\"]{0,100}:[^/\s'\"{}<>$]{3,200}@[\w.-]",
}
# What a key of a record calls a secret; `token` alone is a word of every tokenizer.
SECRET_KEYS = re.compile(
    r"(?i)(?:^|[_-])(?:password|passwd|api_?key|secret_?key|access_?key|auth_?token|access_?token|client_?secret)$"
)
# A path under a root that only exists on somebody's machine. The character before it rules out addresses.
_ROOTS = (
    "home|Users|root|tmp|mnt|scratch|workspace|private/var|var/folders|home2|export/home|gpfs|lustre|Volumes|kaggle"
    "|content/drive|run/user"
)
_DEEP_ROOTS = "data|srv|opt|nfs|storage|projects?|media"  # common words: a path of two more parts
LOCAL_PATH = (
    rf"(?<![\w./~-])(?:file://)?/(?:(?:{_ROOTS})/[\w.~-]|(?:{_DEEP_ROOTS})/[\w.~-]{{1,100}}/[\w.~-])[^\s\"'<>|]{{0,300}}"
    # A share of a network; TeX writes two backslashes, too, so that the name has to be that of a server.
    r"|(?<![\w\\])\\{2}(?:(?:nas|fs|filer?|files?erver|server|share|storage|smb|san)[\w-]{0,40}|[\w-]{1,60}(?:\.[\w-]{1,60})+)"
    r"\\{1,2}[\w.$-]{1,100}"
    r"|file:///[^\s\"'<>|]{1,300}"
    r"|\b[A-Za-z]:\\+(?:Users|Documents and Settings)\\+[^\s\"'<>|]{1,300}"
    r"|\b[D-Z]:\\{1,2}[\w.-]{1,100}\\{1,2}[\w.-]{1,300}"
)
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # drawn as nothing
# Strings that a program puts together, and lines that go on: "hf_" + "abc", 'hf_' 'abc', hf_\⏎abc.
_SEAM = re.compile(r"[\"']\s{0,40}+\+?+\s{0,40}+\\?+\s{0,40}+[rbf]?[\"']|\\\r?\n[ \t]{0,40}")
_FOLDED = re.compile(r"(?<=[>|])[+-]?[ \t]{0,9}\n(?:[ \t]{1,40}\S{1,200}(?:\n|$)){2,20}")  # of YAML, a word a line
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{48,4000}(?![0-9A-Za-z])|(?:\\x[0-9a-fA-F]{2}){4,1000})")


def joined(text: str) -> str:
    """Text with strings and lines put together that a program or YAML would put together."""
    folded = _FOLDED.sub(lambda found: "".join(found[0].split()).lstrip("+-"), text) if "\n" in text else text
    return _SEAM.sub("", folded)


def _from_hex(text: str) -> str:
    """What the runs of hexadecimal digits in a text say, as far as that is text."""
    runs = (bytes.fromhex(run[0].replace("\\x", "")[: len(run[0]) // 2 * 2]) for run in _HEX.finditer(text))
    return " ".join(run.decode() for run in runs if run.isascii() and run.decode().isprintable())


def undisguised(text: str) -> str:
    """Text without what hides a secret from a search and not from a reader."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _HIDDEN.sub("", text))
    text = text.replace("\\/", "/")
    for more in (unquote(text) if "%" in text else text, joined(text), _from_hex(text)):
        text = f"{text} {more}" if more and more != text else text
    return text
