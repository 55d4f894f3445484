//! The run as a picture.
use weft_benches::bars::Picture;
use weft_benches::report::Report;

const PICTURE: Picture<'static> = Picture {
    label: "What a daemon of an overlay network takes, medians; less is better",
    legend: &[
        ("weft", "weftd", ["#0a7f6f", "#2dd4bf"]),
        ("floor", "ip and bridge -batch", ["#9fd8cf", "#1b6f66"]),
        ("batch", "one netlink batch", ["#b8bfc6", "#565d66"]),
        ("serial", "flanneld's serial work", ["#d29922", "#bb8009"]),
        ("idle", "peers at rest", ["#b8bfc6", "#565d66"]),
        ("churn", "50 changes a second", ["#0a7f6f", "#2dd4bf"]),
    ],
    left: 270.0,
};

pub(crate) fn svg(report: &Report) -> String {
    PICTURE.svg(report, |_| true)
}
