"""The study: does shaping the trajectory beat blind jumps at equal budget?"""
