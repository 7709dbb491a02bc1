//! Short texts for people.

use serde::{Deserialize, Serialize};

use super::Invalid;

/// A text of 1 to `MAX` characters of any script, not blank, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label<const MAX: usize>(Box<str>);

/// The name of a scope or an instance for people.
pub type DisplayName = Label<100>;

/// A remark of an operator, such as the reason of a hold.
pub type Note = Label<200>;

impl<const MAX: usize> Label<MAX> {
    /// The most characters.
    pub(crate) const MAX_CHARS: usize = MAX;

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<String> for Label<MAX> {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let chars = text.chars().count();
        if text.trim().is_empty() {
            Err(Invalid::new("must not be blank"))
        } else if chars > MAX {
            Err(Invalid::new(format!(
                "must have at most {MAX} characters, not {chars}"
            )))
        } else if text.chars().any(char::is_control) {
            Err(Invalid::new("must not hold control characters"))
        } else {
            Ok(Self(text.into()))
        }
    }
}

impl<const MAX: usize> From<Label<MAX>> for String {
    fn from(label: Label<MAX>) -> Self {
        label.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_any_script_but_neither_blank_nor_control() {
        for good in ["订单服务", "Orders (EU)", &"名".repeat(100)] {
            assert_eq!(
                DisplayName::try_from(good.to_owned()).unwrap().as_str(),
                good
            );
        }
        for bad in ["", "  ", "a\0b", "a\nb", &"名".repeat(101)] {
            assert!(DisplayName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
