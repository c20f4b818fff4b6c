"""Settings of Qwen's video tools, and of trainers that follow them, as our recipe keys."""

from cluster.config.migration.moved import Moved

QWEN: tuple[Moved, ...] = (
    Moved("FPS", "video.fps"),
    Moved("FPS_MIN_FRAMES", "video.min_frames"),
    Moved("FPS_MAX_FRAMES", "video.max_frames"),
    Moved("VIDEO_MIN_PIXELS", "video.min_pixels"),
    Moved("VIDEO_MAX_PIXELS", "video.max_pixels"),
    Moved("nframes", "video.max_frames", "without video.fps, frames are spread over the clip"),
    Moved("video_fps", "video.fps"),
    Moved("video_min_frames", "video.min_frames"),
    Moved("video_max_frames", "video.max_frames"),
    Moved("video_min_pixels", "video.min_pixels"),
    Moved("video_max_pixels", "video.max_pixels"),
    Moved("total_pixels", "video.total_pixels"),
    Moved("video_total_pixels", "video.total_pixels"),
    Moved("vision_tower_lr", "grpo.optim.vision_learning_rate"),
    Moved("mm_projector_lr", "grpo.optim.merger_learning_rate"),
    Moved("tune_mm_vision", "learner.freeze_vision_tower", "the other way round"),
    Moved("tune_mm_mlp", "learner.freeze_merger", "the other way round"),
    Moved("tune_mm_llm", "learner.freeze_language_model", "the other way round"),
    Moved("vit_lr", "grpo.optim.vision_learning_rate"),
    Moved("aligner_lr", "grpo.optim.merger_learning_rate"),
    Moved("system", "prompts.system", "a system turn before every prompt"),
    Moved("default_system", "prompts.system", "a system turn before every prompt"),
    Moved("freeze_vit", "learner.freeze_vision_tower"),
    Moved("freeze_aligner", "learner.freeze_merger"),
    Moved("freeze_llm", "learner.freeze_language_model"),
)
"""qwen-vl-utils, Qwen's own fine-tuning, ms-swift (environment variables, arguments), ROLL (lower
case)."""
