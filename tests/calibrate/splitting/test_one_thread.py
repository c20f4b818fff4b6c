import torch

from calibrate.splitting.one_thread import one_thread


def test_torch_has_one_thread_inside_and_as_many_as_before_after_it():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            inside = torch.get_num_threads()
        assert (inside, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)
