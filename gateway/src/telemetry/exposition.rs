//! Samples in the form the `prometheus` crate exports, for what keeps its numbers elsewhere.

use std::collections::HashMap;

use prometheus::{
    core::Desc,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// A metric family's name and what it says.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricType,
}

impl Family {
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::COUNTER }
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::GAUGE }
    }

    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::HISTOGRAM }
    }

    /// The family without samples.
    pub fn empty(&self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family
    }

    /// A sample of a counter or gauge.
    pub fn sample(&self, labels: Vec<LabelPair>, value: f64) -> Metric {
        let mut metric = Metric::from_label(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

/// What a collector registers for its families.
pub fn describe<'a>(
    families: impl IntoIterator<Item = &'a Family>,
) -> Result<Vec<Desc>, prometheus::Error> {
    families
        .into_iter()
        .map(|it| Desc::new(it.name.into(), it.help.into(), Vec::new(), HashMap::new()))
        .collect()
}

pub fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
