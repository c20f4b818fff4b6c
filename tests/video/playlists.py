"""Files that are no videos and name others, in the languages that FFmpeg's demuxers read."""

import struct

_ID3 = b"ID3\x04\0\0\0\0\0\0"
"""FFmpeg looks behind it for what a file is."""


def playlists(name: str, url: str) -> dict[str, bytes]:
    """Files by their name, each of which names ``name`` or ``url``."""
    segment = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    concat, hls, remote = f"ffconcat version 1.0\nfile {name}\n", segment.format(name), segment
    mpd = (
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-main'
        f':2011"><Period><AdaptationSet><Representation><BaseURL>{name}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{name}"/><image href="{url}"/></svg>'
    )
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n"
    texts = {
        "concat.mp4": concat,
        "concat_absolute.txt": concat.replace(name, f"/tmp/../{name}"),
        "hls.m3u8": hls,
        "hls_url.m3u8": remote.format(url),
        "hls_key.m3u8": hls.replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF'),
        "hls_map.m3u8": hls.replace("#EXTINF", f'#EXT-X-MAP:URI="{name}"\n#EXTINF'),
        "hls_concat.m3u8": segment.format(f"concat:{name}|{name}"),
        "hls_file.m3u8": segment.format(f"file:{name}"),
        "hls_subfile.m3u8": segment.format(f"subfile,,start,0,end,99,,:{name}"),
        "dash.mpd": mpd,
        "dash_late.mpd": f"here\n{mpd}",
        "drawing.svg": svg,
        "vector.mp4": svg,
        "session.sdp": sdp,
        "session_late.sdp": f"s=x\r\n{sdp}",
        "list.m3u": f"{name}\n",
        "list.pls": f"[playlist]\nFile1={url}\n",
        "list.asx": f'<asx><entry><ref href="{url}"/></entry></asx>',
        "list.smil": f'<smil><body><video src="{url}"/></body></smil>',
        "list.xspf": f"<playlist><trackList><location>{url}</location></trackList></playlist>",
        "movie.ram": f"{url}\n",
        "sub.idx": f"# VobSub index file, v7 (do not modify this line!)\n{name}\n",
        "meta.txt": ";FFMETADATA1\ntitle=x\n",
        "script.avs": f'DirectShowSource("{name}")\n',
        "movie.rtsp": "[Reference]\nRef1=" + url + "\n",
    }
    files = {key: value.encode() for key, value in texts.items()}
    files |= {
        f"id3_{key}": _ID3 + value
        for key, value in files.items()
        if key.startswith(("concat", "hls", "dash", "session"))
    }
    return files | {"reference.mov": _reference(name), "part.mlv": _parted()}


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _reference(name: str) -> bytes:
    """QuickTime that says its frames are in another file (rmra, and a data reference of alis)."""
    url = _box(b"url ", b"\0\0\0\0", name.encode() + b"\0")
    reference = _box(
        b"rmda", _box(b"rdrf", b"\0\0\0\0url ", struct.pack(">I", len(name)), name.encode())
    )
    dinf = _box(b"dinf", _box(b"dref", b"\0\0\0\0\0\0\0\1", url))
    trak = _box(b"trak", _box(b"mdia", _box(b"minf", dinf)))
    return _box(b"ftyp", b"qt  \0\0\0\0qt  ") + _box(b"moov", _box(b"rmra", reference), trak)


def _parted() -> bytes:
    """Magic Lantern's video, which goes on in NAME.M00."""
    head = b"MLVI" + struct.pack("<I", 52) + b"v2.0\0\0\0\0" + bytes(8)
    return head + struct.pack("<HHIHHIIII", 0, 2, 0, 1, 0, 1, 0, 25, 1)
