//! Messages of DNS: from the bytes of a query to those of its answer.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};

use super::zone::{Found, Zone};

/// The largest message over UDP without EDNS, in bytes: RFC 1035, section 4.2.1.
const PLAIN_UDP: u16 = 512;

/// The largest message over UDP with EDNS, in bytes: what HAProxy asks for.
const LARGEST_UDP: u16 = 8192;

/// The largest message over TCP, in bytes.
pub(super) const MAX_TCP: u16 = u16::MAX;

/// The length of the head of a message, in bytes.
const HEAD: usize = 12;

/// An answer, and its code.
pub(super) struct Answered {
    pub(super) bytes: Vec<u8>,
    pub(super) code: ResponseCode,
}

/// Answers a query over UDP; `None` if it is none.
pub(super) fn over_udp(zone: &Zone, query: &[u8]) -> Option<Answered> {
    answer(zone, query, LARGEST_UDP)
}

/// Answers a query over TCP; `None` if it is none.
pub(super) fn over_tcp(zone: &Zone, query: &[u8]) -> Option<Answered> {
    answer(zone, query, MAX_TCP)
}

/// Answers a query with nothing but that the answer does not fit.
pub(super) fn truncated(query: &[u8]) -> Option<Answered> {
    let query = Message::from_vec(query).ok()?;
    let mut answer = empty(&query, ResponseCode::NoError)?;
    answer.metadata.truncation = true;
    encoded(&answer)
}

fn answer(zone: &Zone, query: &[u8], longest: u16) -> Option<Answered> {
    let Ok(query) = Message::from_vec(query) else {
        return malformed(query);
    };
    let code = match query.edns.as_ref().map_or(0, Edns::version) {
        0 => check(&query),
        _ => Some(ResponseCode::BADVERS),
    };
    let mut answer = empty(&query, code.unwrap_or(ResponseCode::NoError))?;
    if code.is_some() {
        return encoded(&answer);
    }
    let Found {
        code,
        answers,
        authorities,
        additionals,
    } = zone.find(query.queries.first()?);
    answer.metadata.response_code = code;
    answer.metadata.authoritative = code != ResponseCode::Refused;
    answer.answers = answers;
    answer.authorities = authorities;
    answer.additionals = additionals;
    let limit = match (longest, &query.edns) {
        (MAX_TCP, _) => MAX_TCP,
        (longest, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP, longest),
        (_, None) => PLAIN_UDP,
    };
    fit(answer, usize::from(limit))
}

/// Returns the code of a query that is not looked up.
fn check(query: &Message) -> Option<ResponseCode> {
    let [question] = query.queries.as_slice() else {
        return Some(ResponseCode::FormErr);
    };
    match (query.metadata.op_code, question.query_class()) {
        (OpCode::Query, DNSClass::IN | DNSClass::ANY) => None,
        (OpCode::Query, _) => Some(ResponseCode::Refused),
        _ => Some(ResponseCode::NotImp),
    }
}

/// Returns the answer to a query without records; `None` if it is an answer itself, so that two
/// servers never answer each other.
fn empty(query: &Message, code: ResponseCode) -> Option<Message> {
    if query.metadata.message_type == MessageType::Response {
        return None;
    }
    let mut answer = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.add_queries(query.queries.iter().take(1).cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_UDP);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns.set_rcode_high(code.high());
        answer.set_edns(edns);
    }
    Some(answer)
}

/// Answers bytes that are no message, if they have the head of a query.
fn malformed(query: &[u8]) -> Option<Answered> {
    let [first, second, flags, ..] = query else {
        return None;
    };
    let is_query = query.len() >= HEAD && flags & 0x80 == 0;
    let id = u16::from_be_bytes([*first, *second]);
    is_query.then(|| {
        encoded(&Message::error_msg(
            id,
            OpCode::Query,
            ResponseCode::FormErr,
        ))
    })?
}

fn encoded(answer: &Message) -> Option<Answered> {
    let bytes = answer.to_vec().ok()?;
    let code = answer.metadata.response_code;
    Some(Answered { bytes, code })
}

/// Leaves out records until the answer fits: first the additional ones, which no client asked for, and then
/// answers, which the client gets over TCP.
fn fit(mut answer: Message, limit: usize) -> Option<Answered> {
    let whole = encoded(&answer)?;
    if whole.bytes.len() <= limit {
        return Some(whole);
    }
    answer.additionals.clear();
    let mut records: Vec<Record> = std::mem::take(&mut answer.answers);
    let fits = |answer: &mut Message, records: &[Record]| {
        answer.answers = records.to_vec();
        encoded(answer).filter(|encoded| encoded.bytes.len() <= limit)
    };
    if let Some(without_additionals) = fits(&mut answer, &records) {
        return Some(without_additionals);
    }
    loop {
        // Each step leaves out a fifth, so that few are left out in vain.
        records.truncate(records.len() * 4 / 5);
        if fits(&mut answer, &records).is_some() || records.is_empty() {
            answer.metadata.truncation = true;
            return encoded(&answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, RecordType};

    use super::*;

    fn name() -> Name {
        Name::from_ascii("orders.service.consul.").unwrap()
    }

    fn query() -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(name(), RecordType::A));
        query
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_answer_says_so() {
        let mut full = empty(&query(), ResponseCode::NoError).unwrap();
        let record = |n| Record::from_rdata(name(), 0, RData::A(A::new(10, 0, 0, n)));
        full.answers = (0..100).map(record).collect();
        full.additionals = (0..100).map(record).collect();
        let read = |answered: Answered| Message::from_vec(&answered.bytes).unwrap();
        let whole = read(fit(full.clone(), 65_535).unwrap());
        assert_eq!((whole.answers.len(), whole.additionals.len()), (100, 100));
        let answers = read(fit(full.clone(), 1700).unwrap());
        assert_eq!((answers.answers.len(), answers.additionals.len()), (100, 0));
        assert!(!answers.metadata.truncation);
        let fitted = fit(full, 512).unwrap();
        assert!(fitted.bytes.len() <= 512);
        let some = read(fitted);
        assert!(some.metadata.truncation && !some.answers.is_empty());
    }

    #[test]
    fn an_answer_and_what_is_too_short_are_not_answered() {
        let answer = empty(&query(), ResponseCode::NoError).unwrap();
        assert!(empty(&answer, ResponseCode::NoError).is_none());
        for bad in [&b""[..], b"\0", b"\0\x07\x80\0\0\x01\0\0\0\0\0\0", &[0; 11]] {
            assert!(malformed(bad).is_none(), "{bad:?}");
        }
        let refused = malformed(b"\0\x07\0\0\0\x09\0\0\0\0\0\0").unwrap();
        assert_eq!(refused.code, ResponseCode::FormErr);
        assert_eq!(refused.bytes[..2], [0, 7]);
    }
}
