//! Parses Server-Sent Events.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>, as
//! far as a Rollcall daemon uses it: `\n` ends a line, and there is one line of data.

use reqwest::Response;

use super::text;

/// An event of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerEvent {
    /// The ID after which to resume; empty if the event has none.
    pub(crate) id: String,
    /// For example `instance.online`; empty if only an ID was sent.
    pub(crate) name: String,
    /// JSON.
    pub(crate) data: String,
}

/// An open stream.
pub(crate) struct EventStream {
    response: Response,
    parser: Parser,
}

impl EventStream {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            parser: Parser::default(),
        }
    }

    /// Returns the next event, `None` at the end of the stream, or why it broke.
    pub(crate) async fn next(&mut self) -> Result<Option<ServerEvent>, String> {
        loop {
            if let Some(event) = self.parser.event() {
                return Ok(Some(event));
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.parser.bytes.extend_from_slice(&bytes),
                Ok(None) => return Ok(None),
                Err(error) => return Err(text(&error)),
            }
        }
    }
}

#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    event: ServerEvent,
}

impl Parser {
    /// Returns the next complete event.
    fn event(&mut self) -> Option<ServerEvent> {
        while let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(':') {
                Some(("id", id)) => id.trim().clone_into(&mut self.event.id),
                Some(("event", name)) => name.trim().clone_into(&mut self.event.name),
                Some(("data", data)) => data.trim().clone_into(&mut self.event.data),
                // Comments, and the reconnection time.
                Some(_) => {}
                None => {
                    let event = std::mem::take(&mut self.event);
                    if event != ServerEvent::default() {
                        return Some(event);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_whatever_pieces_they_come() {
        let text = "retry: 2000\nid: 5-1\n\n: ping\n\nid: 5-2\nevent: roll.call\ndata: {\"at\":\"名\"}\n\nid: 5";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                parser.bytes.extend_from_slice(piece);
                events.extend(std::iter::from_fn(|| parser.event()));
            }
            let received: Vec<_> = events
                .iter()
                .map(|event| (event.id.as_str(), event.name.as_str(), event.data.as_str()))
                .collect();
            let whole = ("5-2", "roll.call", "{\"at\":\"名\"}");
            assert_eq!(received, [("5-1", "", ""), whole], "pieces of {size}");
        }
    }
}
