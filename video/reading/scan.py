"""What a file holds, found by reading its container once without decoding a frame.

The scan refuses what is no video (sound, still images, playlists, random bytes, cut-off files) with
one sentence, and collects what :mod:`fibo_robot.video.reading.reader` needs to choose a reader: codec, frame
order and the keyframes from which decoding may start.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from fibo_robot.video.reading.errors import VideoDecodeError, may_not_read, reason
from fibo_robot.video.reading.stored import ClipInMemory, StoredClip, require_stored

# FFmpeg would also "open" pictures, subtitles, playlists and text; those are refused by this list.
_VIDEO_CONTAINERS = {
    *("mov", "mp4", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "flv", "asf", "gif", "ogg"),
    *("h264", "hevc", "av1", "ivf", "m4v", "mxf", "nut", "rm", "vob", "wtv", "dv", "yuv4mpegpipe", "apng"),
}
# Containers whose index makes seeking to a keyframe exact; others are decoded from their start.
_SEEKABLE_CONTAINERS = {"mov", "mp4", "matroska", "webm"}
_END_TOLERANCE_SECONDS = 0.5  # a declared duration may include the tail of a longer sound track
_MAX_SIDE = 16_384


@dataclass(frozen=True)
class VideoScan:
    """What the container says about its main video stream.

    Attributes:
        containers: FFmpeg's names of the container format (`mov`, `mp4`, … for one file).
        codec: FFmpeg's name of the codec, such as `h264`.
        pixel_format: such as `yuv420p`; empty where the container does not tell.
        width, height: coded size in pixels, before rotation.
        stream_index: index of the video stream among all streams.
        packet_pts: presentation times of the packets in decoding order, in ticks of `time_base`.
        start_pts: presentation times from which decoding may safely start, ascending.
        time_base: seconds per tick.
        average_rate: frames per second as declared; 0 where unknown.
        has_gaps: a packet has no presentation time, repeats one, or is marked to be discarded.
        unsafe_keyframes: some keyframes are followed by frames that need earlier ones (open GOP,
            intra refresh).
    """

    containers: frozenset[str]
    codec: str
    pixel_format: str
    width: int
    height: int
    stream_index: int
    packet_pts: tuple[int | None, ...]
    start_pts: tuple[int, ...]
    time_base: float
    average_rate: float
    has_gaps: bool
    unsafe_keyframes: bool

    @property
    def seekable(self) -> bool:
        """Whether decoding may start at `start_pts` rather than at the first packet."""
        return bool(self.containers & _SEEKABLE_CONTAINERS) and not self.has_gaps and len(self.start_pts) > 0


def scan(path: Path | str) -> VideoScan:
    """What the file at `path` holds; see :func:`scan_source`."""
    return scan_source(require_stored(Path(path)))


def scan_source(source: StoredClip | ClipInMemory) -> VideoScan:
    """Read a container (every packet, no decoding); what a file holds is remembered.

    Raises:
        VideoDecodeError: it is empty, cut off, or holds no video.
    """
    if source.size == 0:
        raise VideoDecodeError(f"{source.path}: the file is empty; fetch it again.")
    return _scan(source) if isinstance(source, ClipInMemory) else _remembered_scan(source)


def forget_scans() -> None:
    """Forget what files hold, so that the next scan reads them anew (for fair measurements)."""
    _remembered_scan.cache_clear()


def _scan(source: StoredClip | ClipInMemory) -> VideoScan:
    try:
        with source.open() as container:
            return _scan_open(source.path, container)
    except (FFmpegError, ValueError) as error:
        raise may_not_read(source.path, error) or VideoDecodeError(
            f"{source.path}: no video could be read from it ({reason(error)}); the file is damaged, cut off "
            "or not a video."
        ) from error


_remembered_scan = lru_cache(maxsize=4096)(_scan)


def _scan_open(path: Path, container: InputContainer) -> VideoScan:
    containers = frozenset(container.format.name.split(","))
    if not containers & _VIDEO_CONTAINERS:
        raise VideoDecodeError(
            f"{path}: this is not a video file (it reads as {container.format.long_name})."
        )
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = sorted({s.type for s in container.streams}) or ["nothing"]
        raise VideoDecodeError(f"{path}: the file holds no video stream, only {' and '.join(kinds)}.")
    context = stream.codec_context
    if not (0 < context.width <= _MAX_SIDE and 0 < context.height <= _MAX_SIDE):
        raise VideoDecodeError(
            f"{path}: the picture size {context.width}x{context.height} is not usable; the file is damaged."
        )

    packet_pts: list[int | None] = []
    starts: list[int] = []
    discarded = unsafe = False
    last_end = 0.0
    tick = {s.index: float(s.time_base or 0) for s in container.streams}  # fractions would take half the time
    keyframe: int | None = None
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.pts is not None:
            last_end = max(last_end, (packet.pts + (packet.duration or 0)) * tick[packet.stream_index])
        if packet.stream_index != stream.index:
            continue
        if packet.is_corrupt:
            raise VideoDecodeError(
                f"{path}: the file is damaged or cut off after {len(packet_pts)} frames"
                f"{f' of {stream.frames}' if stream.frames else ''}; fetch it again."
            )
        discarded |= packet.is_discard
        if packet.is_keyframe and packet.pts is not None:
            if _restarts_decoder(context, packet):
                keyframe = packet.pts
                starts.append(keyframe)
            else:
                unsafe = True
        elif keyframe is not None and packet.pts is not None and packet.pts < keyframe:
            # A frame that is stored after its keyframe and shown before it needs the previous group.
            unsafe = True
            if starts and starts[-1] == keyframe:
                starts.pop()
        packet_pts.append(packet.pts)

    if not packet_pts:
        raise VideoDecodeError(f"{path}: the video stream holds no frames.")
    if stream.frames > len(packet_pts):
        raise VideoDecodeError(
            f"{path}: the file is cut off after {len(packet_pts)} of {stream.frames} frames; fetch it again."
        )
    _refuse_missing_end(path, container, containers, last_end)
    return VideoScan(
        containers=containers,
        codec=context.name,
        pixel_format=context.pix_fmt or "",
        width=context.width,
        height=context.height,
        stream_index=stream.index,
        packet_pts=tuple(packet_pts),
        start_pts=tuple(sorted(starts)),
        time_base=float(stream.time_base or 0),
        average_rate=float(stream.average_rate or stream.guessed_rate or 0),
        has_gaps=discarded or None in packet_pts or len(set(packet_pts)) < len(packet_pts),
        unsafe_keyframes=unsafe,
    )


def _refuse_missing_end(
    path: Path, container: InputContainer, containers: frozenset[str], last_end: float
) -> None:
    """Matroska counts no frames, but its header keeps the duration that the whole file had."""
    if "matroska" not in containers or not container.duration:
        return
    declared = container.duration / av.time_base
    if declared - last_end > max(_END_TOLERANCE_SECONDS, 0.02 * declared):
        raise VideoDecodeError(
            f"{path}: the file is cut off, {last_end:.1f} of {declared:.1f} seconds are left; fetch it again."
        )


def _restarts_decoder(context: CodecContext, packet: Packet) -> bool:
    """Whether a keyframe packet is one from which decoding may start.

    For H.264 in length-prefixed form (mp4, mkv), a recovery point is flagged like a true restart (NAL
    type 5, ITU-T H.264 table 7-1), although what follows it may need earlier frames.
    """
    extradata = context.extradata or b""
    if context.name != "h264" or len(extradata) < 5 or extradata[0] != 1:
        return True
    length_size = (extradata[4] & 3) + 1
    data, position = bytes(packet), 0
    while position + length_size < len(data):
        nal_type = data[position + length_size] & 31
        if 1 <= nal_type <= 5:
            return nal_type == 5
        position += length_size + int.from_bytes(data[position : position + length_size], "big")
    return True
