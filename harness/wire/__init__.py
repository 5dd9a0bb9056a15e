"""What our own HTTP servers share: requests read, answers framed, and answers that go on when they are due.

They stand for engines, so they are as late as a machine has to be and no later.
"""
