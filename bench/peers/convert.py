"""The peers' own formats of a Hugging Face directory of random weights. A file that is there is left as it is.

    python convert.py FOLDER PRECISION …      FOLDER/hf → FOLDER/PRECISION.gguf or FOLDER/openvino-PRECISION

GGUF by the `gguf` package (tokenizer model "no_vocab"), q8_0 and q4_0 by llama.cpp's quantiser; OpenVINO by
optimum-intel and nncf: int8 a row, int4 symmetric in groups of 32 with the head in int8.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf(folder: Path, target: Path, precision: str) -> None:
    """F16 or BF16, norms in F32; q and k with rotary pairs side by side, as llama.cpp has them."""
    import gguf as g

    c = json.loads((folder / "hf" / "config.json").read_text())
    writer = g.GGUFWriter(target, "llama")
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c.get("rope_theta") or c["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(c["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    kind = g.GGMLQuantizationType.BF16 if precision == "bf16" else g.GGMLQuantizationType.F16
    writer.add_file_type(g.LlamaFileType.MOSTLY_BF16 if precision == "bf16" else g.LlamaFileType.MOSTLY_F16)
    for name, tensor in load_file(folder / "hf" / "model.safetensors").items():
        if tensor.ndim == 1:
            writer.add_tensor(_name(name), tensor.float().numpy())
            continue
        for which, heads in (("q_proj", c["num_attention_heads"]), ("k_proj", c["num_key_value_heads"])):
            if which in name:
                halves = tensor.view(heads, 2, -1, tensor.shape[1])
                tensor = halves.transpose(1, 2).reshape(tensor.shape).contiguous()
        if precision == "bf16":
            writer.add_tensor(_name(name), tensor.view(torch.uint8).numpy(), raw_dtype=kind)
        else:
            writer.add_tensor(_name(name), tensor.half().numpy().astype(np.float16), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    parts = name.split(".")
    if parts[1] != "layers":
        return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[1]]
    return f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.weight"


def openvino(folder: Path, target: Path, precision: str) -> None:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    how = (
        OVWeightQuantizationConfig(bits=4, sym=True, group_size=32, ratio=1.0)
        if precision == "int4"
        else OVWeightQuantizationConfig(bits=8, sym=True)
    )
    model = OVModelForCausalLM.from_pretrained(
        folder / "hf", export=True, quantization_config=how, compile=False, use_cache=True
    )
    model.save_pretrained(target)
    try:
        from openvino import save_model
        from openvino_tokenizers import convert_tokenizer
        from transformers import AutoTokenizer

        made = convert_tokenizer(AutoTokenizer.from_pretrained(folder / "hf"), with_detokenizer=True)
        for file, part in zip(("openvino_tokenizer.xml", "openvino_detokenizer.xml"), made, strict=True):
            save_model(part, target / file)
    except Exception as error:  # the pipeline is driven with ids, and may do without
        print(f"no tokenizer for OpenVINO: {type(error).__name__}: {error}", file=sys.stderr)


def main() -> None:
    folder = Path(sys.argv[1])
    for precision in sys.argv[2:]:
        is_gguf = precision in ("f16", "bf16", "q8_0", "q4_0")
        target = folder / (f"{precision}.gguf" if is_gguf else f"openvino-{precision}")
        if target.exists():
            continue
        part = target.with_name("part-" + target.name)
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        if precision in ("q8_0", "q4_0"):
            from run_llama_cpp import quantize

            quantize(folder / "bf16.gguf", part, precision)
        elif is_gguf:
            gguf(folder, part, precision)
        else:
            openvino(folder, part, precision)
        os.rename(part, target)


if __name__ == "__main__":
    main()
