//! A family: its name, help and type, and one metric for each set of labels.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One that has no metric yet is not shown.
#[derive(Clone, Debug)]
pub struct Family {
    inner: MetricFamily,
    kind: Kind,
}

impl Family {
    #[must_use]
    pub fn new(kind: Kind, name: &str, help: &str) -> Family {
        let mut inner = MetricFamily::default();
        inner.set_name(name.to_owned());
        inner.set_help(help.to_owned());
        inner.set_field_type(match kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        Family { inner, kind }
    }

    /// `at_ns`: Unix time of the reading; `None`: that of the scrape.
    pub fn push(&mut self, labels: Vec<LabelPair>, value: f64, at_ns: Option<i64>) {
        let mut metric = Metric::from_label(labels);
        match self.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        if let Some(at) = at_ns {
            metric.set_timestamp_ms(at.div_euclid(1_000_000));
        }
        self.inner.mut_metric().push(metric);
    }

    #[must_use]
    pub fn with(mut self, labels: Vec<LabelPair>, value: f64, at_ns: Option<i64>) -> Family {
        self.push(labels, value, at_ns);
        self
    }
}

#[must_use]
pub fn label(name: &str, value: impl Into<String>) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.into());
    pair
}

/// By name, without those that have no metric.
#[must_use]
pub fn finish(families: impl IntoIterator<Item = Family>) -> Vec<MetricFamily> {
    let mut finished: Vec<MetricFamily> =
        families.into_iter().map(|f| f.inner).filter(|f| !f.get_metric().is_empty()).collect();
    finished.sort_by(|a, b| a.name().cmp(b.name()));
    finished
}

/// A number of nanoseconds as seconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a double is what Prometheus has")]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a double is what Prometheus has")]
pub fn number(value: u64) -> f64 {
    value as f64
}
