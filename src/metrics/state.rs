//! The state of components, which is read when `/metrics` is requested.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet,
};
use prometheus_client::metrics::MetricType;

/// Components whose state is shown as metrics.
pub(crate) trait State: Send + Sync + 'static {
    /// Writes the state.
    fn write(&self, out: &mut StateWriter<'_>) -> fmt::Result;
}

/// Writes the metrics of a [`State`].
pub(crate) struct StateWriter<'a>(DescriptorEncoder<'a>);

impl StateWriter<'_> {
    /// The help ends with a full stop, as that of registered metrics.
    fn describe<'a>(
        &'a mut self,
        name: &'a str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'a>, fmt::Error> {
        let help = format!("{help}.");
        self.0.encode_descriptor(name, &help, None, kind)
    }

    /// Writes a gauge.
    pub(crate) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.describe(name, help, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    /// Writes a gauge for each set of labels.
    pub(crate) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, usize)>,
    ) -> fmt::Result {
        let mut family = self.describe(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes a counter, whose name is extended by `_total`.
    pub(crate) fn counter(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.describe(name, help, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Writes a counter for each set of labels.
    pub(crate) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.describe(name, help, MetricType::Counter)?;
        for (labels, value) in values {
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }
}

/// A [`State`] as a collector of the library.
pub(super) struct StateCollector<S>(pub(super) S);

impl<S> fmt::Debug for StateCollector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateCollector")
    }
}

impl<S: State> Collector for StateCollector<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut StateWriter(encoder))
    }
}
