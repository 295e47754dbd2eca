"""Pipes and locks between processes, which give way to other greenlets."""

from stargate_tests.engine.test_forked import run


def test_a_pool_works_and_lets_others_run():
    out, _ = run("""
        import multiprocessing
        ticks = []

        def tick():
            while True:
                ticks.append(time.sleep(0.01))

        threading.Thread(target=tick, daemon=True).start()
        big = b"x" * 1_000_000
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(len, [big] * 4) == [len(big)] * 4
            assert pool.map(bytes, [len(big)] * 4) == [bytes(len(big))] * 4
            before = len(ticks)
            pool.map(time.sleep, [0.2, 0.2])
            print(len(ticks) - before > 5)
    """)
    assert out == ["True"]


def test_greenlets_wait_for_a_queue_of_another_process_beside_each_other():
    out, _ = run("""
        import multiprocessing
        context = multiprocessing.get_context("fork")
        queue, asked = context.Queue(), context.Event()

        def put():
            asked.wait(30)
            for number in range(4):
                queue.put(number)

        child = context.Process(target=put)
        child.start()
        got = []
        threads = [threading.Thread(target=lambda: got.append(queue.get())) for _ in range(4)]
        for each in threads:
            each.start()
        time.sleep(0.01)
        asked.set()
        for each in (*threads, child):
            each.join()
        print(sorted(got), child.exitcode)
    """)
    assert out == ["[0, 1, 2, 3] 0"]


def test_a_lock_that_another_process_has_is_waited_for_as_long_as_is_said():
    out, _ = run("""
        import multiprocessing
        context = multiprocessing.get_context("fork")
        lock, taken, end = context.Lock(), context.Event(), context.Event()

        def take():
            with lock:
                taken.set()
                end.wait(30)

        child = context.Process(target=take)
        child.start()
        taken.wait(30)
        print(lock.acquire(False), lock.acquire(timeout=0.02))
        end.set()
        print(lock.acquire())
        child.join()
    """)
    assert out == ["False False", "True"]
