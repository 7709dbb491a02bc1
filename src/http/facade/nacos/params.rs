//! The parameters of a request: in its query, its form, or both.

use std::borrow::Cow;
use std::collections::BTreeMap;

use actix_web::HttpRequest;
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::http::Problem;

/// The cluster of an instance that names none.
pub(super) const DEFAULT_CLUSTER: &str = "DEFAULT";

/// The parameters of a request. The first one of a name counts.
#[derive(Debug, Default)]
pub(super) struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Params<'a> {
    /// Reads the query and the body.
    pub(super) fn of(request: &'a HttpRequest, body: &'a [u8]) -> Self {
        let query = form_urlencoded::parse(request.query_string().as_bytes());
        Self(query.chain(form_urlencoded::parse(body)).collect())
    }

    /// Reads the members of an object, whose names differ in part.
    pub(super) fn of_beat(beat: &'a Map<String, Value>) -> Self {
        let pairs = beat.iter().filter_map(|(name, value)| {
            let text = match value {
                Value::Null => return None,
                Value::String(text) => Cow::Borrowed(text.as_str()),
                other => Cow::Owned(other.to_string()),
            };
            Some((Cow::Borrowed(name.as_str()), text))
        });
        Self(pairs.collect())
    }

    /// Returns a parameter that is given. An empty one is not, and neither is `None`, which Python's
    /// client sends for a value that it does not have.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        let (_, text) = found.find(|(_, text)| !text.is_empty() && text != "None")?;
        Some(text)
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&str, Problem> {
        let given = self.get(name);
        given.ok_or_else(|| Problem::invalid(name, "is missing"))
    }

    /// Returns a flag, in any case.
    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(Problem::invalid(name, "must be true or false")),
        }
    }

    /// Returns `enabled`, which some clients write as `enable`.
    pub(super) fn enabled(&self) -> Result<Option<bool>, Problem> {
        Ok(self.flag("enabled")?.or(self.flag("enable")?))
    }

    /// Returns the cluster.
    pub(super) fn cluster(&self) -> &str {
        let given = self.get("clusterName").or_else(|| self.get("cluster"));
        given.unwrap_or(DEFAULT_CLUSTER)
    }

    /// Returns the clusters of a list; empty for all.
    pub(super) fn clusters(&self) -> Vec<&str> {
        let given = self.get("clusters").unwrap_or_default();
        let names = given.split(',').map(str::trim);
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Returns the metadata: JSON, or `a=1,b=2`.
    pub(super) fn metadata(&self) -> Result<Option<BTreeMap<String, String>>, Problem> {
        let Some(text) = self.get("metadata") else {
            return Ok(None);
        };
        let entries = match serde_json::from_str(text) {
            Ok(Value::Object(entries)) => entries,
            Ok(Value::Null) => return Ok(None),
            _ => {
                let pairs = text.split(',').map(|pair| pair.trim().split_once('='));
                let pairs =
                    pairs.map(|pair| pair.map(|(name, text)| (name.to_owned(), text.into())));
                let pairs: Option<Map<String, Value>> = pairs.collect();
                pairs.ok_or_else(|| {
                    Problem::invalid("metadata", "must be a JSON object, or a=1,b=2")
                })?
            }
        };
        let clean = |text: &str| text.replace('\0', "");
        let entries = entries.into_iter().filter(|(name, _)| !name.is_empty());
        let entries = entries.filter_map(|(name, value)| {
            let text = match value {
                Value::Null => return None,
                Value::String(text) => clean(&text),
                other => other.to_string(),
            };
            Some((clean(&name), text))
        });
        Ok(Some(entries.collect()))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn request(query: &str) -> HttpRequest {
        TestRequest::with_uri(&format!("/?{query}")).to_http_request()
    }

    #[test]
    fn a_parameter_is_in_the_query_or_in_the_form() {
        let request = request("ip=10.0.0.5&clusterName=None&app=");
        let params = Params::of(&request, b"port=80&app=a%26b");
        assert_eq!(params.get("ip"), Some("10.0.0.5"));
        assert_eq!(params.get("port"), Some("80"));
        assert_eq!(params.get("app"), Some("a&b"));
        assert_eq!(params.cluster(), "DEFAULT");
    }

    #[test]
    fn a_flag_has_any_case() {
        for (text, flag) in [
            ("true", Some(true)),
            ("False", Some(false)),
            ("", None),
            ("None", None),
        ] {
            let request = request(&format!("enable={text}"));
            assert_eq!(Params::of(&request, b"").enabled().unwrap(), flag);
        }
        let request = request("enabled=2");
        assert!(Params::of(&request, b"").enabled().is_err());
    }

    #[test]
    fn metadata_is_json_or_pairs() {
        let of = |text: &str| {
            let text: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            let request = request(&format!("metadata={text}"));
            Params::of(&request, b"").metadata()
        };
        let both = BTreeMap::from([("a", "1"), ("b", "x=y")]);
        let both = both
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        assert_eq!(
            of(r#"{"a":1,"b":"x=y","c":null}"#).unwrap().as_ref(),
            Some(&both)
        );
        assert_eq!(of("a=1, b=x=y").unwrap(), Some(both));
        assert_eq!(of("").unwrap(), None);
        assert!(of("{a").is_err());
    }
}
