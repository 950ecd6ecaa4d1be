from benchmarks.measure.beside import whole_backbone
from benchmarks.measure.protocol import MIN_ROUNDS, full, quick


def test_the_whole_backbone_takes_a_small_share_of_a_bench_and_keeps_its_rounds():
    for protocol in (quick(2), full(2), quick(2, 5)):
        short = whole_backbone.short(protocol)
        turns = short.rounds * short.passes
        assert short.starts == 1
        assert short.rounds >= MIN_ROUNDS
        assert turns * short.turn.seconds <= 0.5
        assert turns <= protocol.rounds * protocol.passes / 4 or protocol.rounds == MIN_ROUNDS
