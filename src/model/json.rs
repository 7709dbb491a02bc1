//! JSON files that people write.

use serde::de::DeserializeOwned;

/// Parses a JSON text. The error names the field that is wrong, or the position of a syntax
/// error, in words for the author of the file.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        match error.into_inner() {
            error if !error.is_data() => not_json(&error),
            error => {
                let text = error.to_string();
                // The path says more than the position.
                let reason = text.split(" at line ").next().unwrap_or(&text);
                if path == "." {
                    reason.to_owned()
                } else {
                    format!("{path}: {reason}")
                }
            }
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!("not valid JSON at line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Weight;

    #[test]
    fn the_error_names_the_field_or_the_position() {
        let parse = parse_json::<Vec<BTreeMap<String, Weight>>>;
        assert_eq!(parse(r#"[{"a": 1}]"#).unwrap().len(), 1);
        assert_eq!(
            parse(r#"[{"a": 1}, {"a": 70000}]"#).unwrap_err(),
            "[1].a: must be a whole number from 0 to 65535, not 70000"
        );
        assert!(parse("5").unwrap_err().starts_with("invalid type: "));
        assert_eq!(
            parse("[{]").unwrap_err(),
            "not valid JSON at line 1, column 3"
        );
        assert_eq!(
            parse("[] x").unwrap_err(),
            "not valid JSON at line 1, column 4"
        );
        assert_eq!(parse("").unwrap_err(), "not valid JSON at line 1, column 0");
    }
}
