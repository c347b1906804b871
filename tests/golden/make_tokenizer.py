"""Write tests/golden/tokenizer/ and tokenizer_*.json: a small LLaMA-3-style tokenizer, and what transformers makes of texts and chats.

    pip install tokenizers transformers jinja2 && python tests/golden/make_tokenizer.py

Not part of the test run. The tokenizer has the pieces of BitNet b1.58 2B4T's: byte-level BPE, the same split pattern, ignore_merges, special
tokens as the last ids, BOS by post-processor, the published chat template. ``tokenizer_ids.json``: per text ``plain`` (special
tokens are ordinary text), ``parsed`` (their spelling becomes the token), ``with_bos`` (as the tokenizer is called), ``decoded`` (of plain).
``tokenizer_chat.json``: per template and conversation the rendering of ``apply_chat_template`` and its ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

HERE = Path(__file__).parent
FOLDER = HERE / "tokenizer"
VOCAB = 1280
SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
]
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATES = {
    "2b4t": (
        "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "falcon3": (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{% if not loop.last %}"
        "{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}"
        "{% endif %}{% else %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
    ),
}
TEXTS = [
    "",
    " ",
    "  ",
    "a",
    "Hello, world!",
    " Hello",
    "Hello ",
    "Hello  \n",
    "trailing spaces   ",
    "\n",
    "\n\n\n",
    "a\nb",
    "line one\r\nline two\r\n\r\nline four",
    "\r",
    "tab\tand\t\ttabs",
    "I'm sure they'll say it's what we've DON'T'VE 'S 'LL 'd",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F",
    "²³ ½ ٣٤٥ १२३",
    "日本語のテキスト、中文文本。한국어",
    "日本語123abc",
    "Привет, мир! Ёлка",
    "café naïve Zürich cafe\u0301",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd",
    "x\U0001f600y",
    "!!!??? ... --- ***\n\n",
    " !@#$%^&*()",
    "def f(x):\n    return x ** 2  # comment\n\n\nclass A:\n\tpass\n",
    "http://example.org/a?b=c&d=%20#frag",
    "   leading and    inner   spaces",
    "zero\u200bwidth\ufeffmark",
    "nbsp\u00a0and\u3000ideographic",
    "\u0000\u0001\u007f",
    "שלום עולم مرحبا",
    "a" * 40,
    "ab" * 30 + " " * 17,
    "<|eot_id|>",
    "before<|eot_id|>after <|begin_of_text|>",
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<|not_a_token|> <|eot_id",
    "The licensor grants you a copyright license.",
]
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "How are you?"}],
    [{"role": "system", "content": "You are a helpful AI assistant."}, {"role": "user", "content": "How are you?"}],
    [
        {"role": "user", "content": "  spaces around \n"},
        {"role": "assistant", "content": "Fine.\n"},
        {"role": "user", "content": "日本語 \U0001f600\r\nok?"},
    ],
    [{"role": "user", "content": ""}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
]


def main() -> None:
    """Write the tokenizer and both vectors anew."""
    FOLDER.mkdir(exist_ok=True)
    train().save(str(FOLDER / "tokenizer.json"))
    config = {
        "bos_token": SPECIALS[0],
        "chat_template": TEMPLATES["2b4t"],
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|eot_id|>",
        "model_max_length": 4096,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write(FOLDER / "tokenizer_config.json", config)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    ids = [
        {
            "text": text,
            "plain": (plain := tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]),
            "parsed": tokenizer(text, add_special_tokens=False)["input_ids"],
            "with_bos": tokenizer(text)["input_ids"],
            "decoded": tokenizer.decode(plain, clean_up_tokenization_spaces=False),
        }
        for text in TEXTS
    ]
    _write(HERE / "tokenizer_ids.json", {"versions": versions, "cases": ids})
    chats = []
    for name, template in TEMPLATES.items():
        for messages in CHATS:
            for generate in (True, False):
                text = tokenizer.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=generate, tokenize=False
                )
                encoded = tokenizer.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=generate, return_dict=True
                )
                case = {"template": name, "messages": messages, "add_generation_prompt": generate, "text": text}
                chats.append(case | {"ids": encoded["input_ids"]})
    _write(HERE / "tokenizer_chat.json", {"versions": versions, "templates": TEMPLATES, "cases": chats})
    print(f"{len(ids)} texts, {len(chats)} chats, vocabulary {len(tokenizer)}")


def train() -> Tokenizer:
    """Train on the licence and the texts above, so that merges of many kinds exist."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    licence = (HERE.parents[1] / "LICENSE").read_text(encoding="utf-8")
    tokenizer.train_from_iterator([licence, *TEXTS, *TEXTS], trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    bos = tokenizer.token_to_id(SPECIALS[0])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[0]} $A",
        pair=f"{SPECIALS[0]} $A {SPECIALS[0]}:1 $B:1",
        special_tokens=[(SPECIALS[0], bos)],
    )
    return tokenizer


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
