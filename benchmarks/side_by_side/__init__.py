"""Reconstructions of one dataset side by side: ours and its peers, each in a process of its own, judged by one code.

``contestant``, ``peer_cdtools`` and ``peer_ptychi`` run in the peers' environment, which holds no ptycho-bluesky.
"""
