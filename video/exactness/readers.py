"""Readers of picture headers, by codec."""

from video.exactness.av1 import av1
from video.exactness.h264 import h264_reader
from video.exactness.picture_header import HeaderReader, first_is_the_format
from video.exactness.vpx import vp8, vp9


def header_reader(codec: str, stream_header: bytes) -> HeaderReader | None:
    """Reader of a codec's packets; None for codecs that are not known here.

    ``codec``: FFmpeg's name of the format; ``stream_header``: its "extradata".
    """
    if codec == "h264":
        return h264_reader(stream_header)
    parse = {"vp8": vp8, "vp9": vp9, "av1": av1}.get(codec)
    return None if parse is None else first_is_the_format(parse)
