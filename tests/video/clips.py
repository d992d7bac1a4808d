"""Small videos written for tests, with frames that tell their own number."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream


def numbered_frames(count: int, height: int, width: int) -> np.ndarray:
    """`(count, height, width, 3)` uint8: a flat grey whose level is 20 + 5 x the frame's number."""
    levels = (20 + 5 * np.arange(count)) % 235
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers back (exact for 8-bit video of fewer than 47 frames)."""
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 30,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: list[int] | None = None,
) -> Path:
    """Encode `(T, H, W, 3)` uint8 frames; `pts` (in 1/rate seconds) gives a variable frame rate."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.codec_context.time_base = Fraction(1, rate)
        stream.bit_rate = 4_000_000
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
