"""How the `dlp` worker downloads: the sandbox around its process, yt-dlp inside it, and what yt-dlp's errors mean.

A folder of its own, because finding the workers must not import yt-dlp.
"""
