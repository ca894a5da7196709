"""A company in which a leaderboard by tokens runs for eight weeks, and what tokenmeter says of the same weeks.

``python -m examples.leaderboard`` plays one company and shows the board and the report side by side;
``--seeds 20`` measures over twenty of them; ``--live`` plays a small one through a real meter, with and without limits.
"""
