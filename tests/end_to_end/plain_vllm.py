"""Run as a script: one greedy answer of plain vLLM, with its own processor and the raw frames.

{"model", "video", "text"} as an argument -> {"prompt", "response"} as the last line of output
"""

import json
import os
import sys
from pathlib import Path

REQUEST = json.loads(sys.argv[1])
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_COMPILE_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}
sys.path.insert(
    0, str(Path.cwd())
)  # for our decoder: the frames are the same, all else is vLLM's own


def main() -> None:
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    from video.config import VideoConfig
    from video.decode import decode

    clip = decode(REQUEST["video"], VideoConfig())
    content = [{"type": "video"}, {"type": "text", "text": REQUEST["text"]}]
    text = AutoTokenizer.from_pretrained(REQUEST["model"]).apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    count = len(clip.frames)
    metadata = {
        "total_num_frames": count,
        "fps": clip.fps,
        "duration": count / clip.fps,
        "video_backend": "opencv",
        "frames_indices": list(range(count)),
        "do_sample_frames": False,
    }
    llm = LLM(
        model=REQUEST["model"],
        dtype="float32",
        max_model_len=600,
        enforce_eager=True,
        limit_mm_per_prompt={"video": 1, "image": 0},
    )
    (output,) = llm.generate(
        {"prompt": text, "multi_modal_data": {"video": [(clip.frames, metadata)]}},
        SamplingParams(temperature=0.0, max_tokens=48),
    )
    found = {
        "prompt": list(output.prompt_token_ids),
        "response": list(output.outputs[0].token_ids),
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
