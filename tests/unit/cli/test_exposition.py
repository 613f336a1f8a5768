import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import prometheus_client as prometheus
import pytest

from carousel.cli.exposition import NotMetricsError, Scrape, fetch, url_of

TEXT = """\
# HELP a_total Things.
# TYPE a_total counter
a_total{model="x",phase="one"} 3
a_total{model="y",phase="two"} 4.5
plain 1e3
"""


def test_totals_sum_over_label_sets_and_can_be_narrowed():
    scrape = Scrape(TEXT)
    assert scrape.total("a_total") == 7.5
    assert scrape.total("a_total", phase="two") == 4.5
    assert scrape.total("plain") == 1000.0
    assert scrape.total("absent") == 0.0


def exposition(*observed, registry=None):
    registry = registry or prometheus.CollectorRegistry()
    histogram = prometheus.Histogram("h", "H.", ["m"], buckets=(0.1, 1.0), registry=registry)
    for number, value in enumerate(observed):
        histogram.labels(f"m{number % 2}").observe(value)
    return prometheus.generate_latest(registry).decode()


def test_a_quantile_is_the_bound_of_its_bucket_over_all_labels():
    scrape = Scrape(exposition(0.05, 0.06, 0.07, 0.5))
    assert scrape.quantile("h", 0.75) == 0.1
    assert scrape.quantile("h", 0.76) == 1.0


def test_a_quantile_beyond_the_last_bucket_is_infinite_and_of_nothing_is_none():
    assert Scrape(exposition(5.0)).quantile("h", 0.5) == math.inf
    assert Scrape(exposition()).quantile("h", 0.5) is None
    assert Scrape("").quantile("h", 0.5) is None


def test_a_quantile_since_an_earlier_scrape_leaves_out_what_was_before():
    before, now = Scrape(exposition(0.05, 0.05, 0.05)), Scrape(exposition(0.05, 0.05, 0.05, 0.5))
    assert now.quantile("h", 0.5) == 0.1
    assert now.quantile("h", 0.5, before) == 1.0


class OneReply(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/metrics"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(TEXT.encode())

    def log_message(self, *_):
        pass


def test_fetch_reads_a_live_endpoint():
    with HTTPServer(("127.0.0.1", 0), OneReply) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert fetch(f"127.0.0.1:{server.server_port}").total("a_total") == 7.5
        thread.join()


def test_fetch_of_nobody_is_an_os_error():
    with pytest.raises(OSError, match="refused"):
        fetch("127.0.0.1:1")


def test_a_quantile_of_one_label():
    scrape = Scrape(exposition(0.05, 0.5, 0.05, 0.5))
    assert scrape.quantile("h", 0.99, m="m0") == 0.1
    assert scrape.quantile("h", 0.99, m="m1") == 1.0
    assert scrape.names("h_bucket", "m") == ["m0", "m1"]
    assert scrape.labels("a_total") == {}
    assert Scrape(TEXT).labels("a_total") == {"model": "x", "phase": "one"}


def test_label_values_may_have_any_character():
    scrape = Scrape('a_total{model="x,y=\\"}{",phase="p"} 2\n')
    assert scrape.total("a_total", phase="p") == 2
    assert scrape.names("a_total", "model") == ['x,y="}{']


@pytest.mark.parametrize("text", ["<html>", "a_total{ 3", "a_total x"])
def test_a_page_without_metrics_is_an_error(text):
    with pytest.raises(NotMetricsError, match="no metrics"):
        Scrape(text)


def test_urls():
    assert url_of("host:9464") == "http://host:9464/metrics"
    assert url_of("https://host/prometheus") == "https://host/prometheus"
    with pytest.raises(NotMetricsError, match="no URL of http"):
        fetch("file:///etc/passwd")
