//! DNS, in what resolvers and HAProxy need, and under hostile packets.

use std::collections::BTreeSet;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ALL, By, ask, dns_address, exchange, register_at_consul};
use crate::support::daemon::Daemon;
use crate::support::eventually;

async fn start(more: &[&str]) -> Daemon {
    let flags = ALL.iter().chain(more);
    let flags: Vec<String> = flags.map(|flag| (*flag).to_owned()).collect();
    Daemon::start(&flags).await
}

async fn register(daemon: &Daemon, name: &str, ip: &str, more: Value) {
    let mut body = json!({
        "Name": name, "ID": format!("{name}-{ip}"), "Address": ip, "Port": 80,
        "Check": {"TTL": "60s", "Status": "passing"},
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    register_at_consul(daemon, body).await;
}

/// Returns the addresses of an answer.
fn ips(answer: &Message) -> BTreeSet<String> {
    let ips = answer.answers.iter().map(|record| match &record.data {
        RData::A(ip) => ip.to_string(),
        RData::AAAA(ip) => ip.to_string(),
        other => panic!("{other:?}"),
    });
    ips.collect()
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

#[tokio::test]
async fn a_service_has_addresses_by_name_tag_and_kind() {
    let daemon = start(&[]).await;
    let server = dns_address(&daemon);
    register(&daemon, "web", "10.0.0.1", json!({"Tags": ["blue"]})).await;
    register(&daemon, "web", "10.0.0.2", json!({})).await;
    register(&daemon, "web", "2001:db8::1", json!({})).await;
    register(&daemon, "a.web", "10.0.0.9", json!({})).await;
    for (name, kind, expected) in [
        (
            "web.service.consul.",
            RecordType::A,
            set(["10.0.0.1", "10.0.0.2"]),
        ),
        (
            "WEB.Service.dc1.CONSUL.",
            RecordType::A,
            set(["10.0.0.1", "10.0.0.2"]),
        ),
        (
            "web.service.consul.",
            RecordType::AAAA,
            set(["2001:db8::1"]),
        ),
        ("blue.web.service.consul.", RecordType::A, set(["10.0.0.1"])),
        // The longest key counts.
        ("a.web.service.consul.", RecordType::A, set(["10.0.0.9"])),
    ] {
        let answer = ask(server, name, kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative);
        assert_eq!(ips(&answer), expected, "{name} {kind}");
        let question = answer.queries[0].name().to_string();
        assert_eq!(question, name, "the question is repeated as it came");
    }
}

#[tokio::test]
async fn what_has_no_records_says_why_and_is_not_kept() {
    let daemon = start(&[]).await;
    let server = dns_address(&daemon);
    register(&daemon, "web", "10.0.0.1", json!({})).await;
    for (name, kind, code) in [
        (
            "web.service.consul.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        (
            "web.service.consul.",
            RecordType::TXT,
            ResponseCode::NoError,
        ),
        ("service.consul.", RecordType::A, ResponseCode::NoError),
        (
            "unknown.service.consul.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        ("web.consul.", RecordType::A, ResponseCode::NXDomain),
        (
            "zzzz.addr.dc1.consul.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let answer = ask(server, name, kind).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.answers.is_empty());
        let RData::SOA(authority) = &answer.authorities[0].data else {
            panic!("{:?}", answer.authorities);
        };
        assert_eq!(authority.minimum, 0);
    }
    let answer = ask(server, "example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let apex = ask(server, "consul.", RecordType::SOA).await;
    assert_eq!(apex.answers.len(), 1);
}

#[tokio::test]
async fn a_record_of_a_service_has_weight_port_and_target() {
    let daemon = start(&["--dns-domain=service.example"]).await;
    let server = dns_address(&daemon);
    let weight = |weight: u32| json!({"Weights": {"Passing": weight, "Warning": 1}});
    register(&daemon, "web", "10.0.0.1", weight(1)).await;
    register(&daemon, "web", "10.0.0.2", weight(5)).await;
    register(&daemon, "web", "10.0.0.3", weight(0)).await;
    let weights = async |name: &str| {
        let answer = ask(server, name, RecordType::SRV).await;
        let mut weights: Vec<(u16, u16)> = Vec::new();
        for record in &answer.answers {
            let RData::SRV(service) = &record.data else {
                panic!("{record:?}")
            };
            assert_eq!((service.priority, service.port, record.ttl), (1, 80, 0));
            let target = ask(server, &service.target.to_string(), RecordType::A).await;
            assert_eq!(target.answers.len(), 1);
            let RData::A(ip) = target.answers[0].data else {
                panic!()
            };
            weights.push((u16::from(ip.octets()[3]), service.weight));
        }
        assert_eq!(answer.additionals.len(), answer.answers.len());
        weights.sort_unstable();
        weights
    };
    let plain = weights("web.service.service.example.").await;
    assert_eq!(plain, [(1, 1), (2, 5), (3, 0)]);
    // HAProxy divides by 256.
    let scaled = weights("_web._tcp.service.service.example.").await;
    assert_eq!(scaled, [(1, 256), (2, 1280), (3, 0)]);
    // One that is not to be chosen has no address record, which has no weight.
    let answer = ask(server, "web.service.service.example.", RecordType::A).await;
    assert_eq!(ips(&answer), set(["10.0.0.1", "10.0.0.2"]));
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_cut_and_whole_over_tcp() {
    let daemon = start(&[]).await;
    let server = dns_address(&daemon);
    for n in 1..=60 {
        register(&daemon, "web", &format!("10.0.0.{n}"), json!({})).await;
    }
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("web.service.consul.").unwrap();
    query.add_query(Query::query(name, RecordType::SRV));
    for (payload, longest) in [(None, 512), (Some(1232), 1232), (Some(8192), 8192)] {
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            query.set_edns(edns);
        }
        let bytes = exchange(server, &query.to_vec().unwrap()).await.unwrap();
        assert!(bytes.len() <= longest, "{}", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.truncation, longest < 8192);
        assert_eq!(answer.edns.is_some(), payload.is_some());
        assert!(!answer.answers.is_empty());
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    for _ in 0..2 {
        let bytes = query.to_vec().unwrap();
        stream
            .write_u16(u16::try_from(bytes.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 60);
    }
}

#[tokio::test]
async fn hostile_packets_end_nothing() {
    let daemon = start(&[]).await;
    let server = dns_address(&daemon);
    register(&daemon, "web", "10.0.0.1", json!({})).await;
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("web.service.consul.").unwrap();
    query.add_query(Query::query(name, RecordType::A));
    let good = query.to_vec().unwrap();
    let code = async |bytes: &[u8]| {
        let answer = exchange(server, bytes).await.unwrap();
        Message::from_vec(&answer).unwrap().metadata.response_code
    };
    // No question, a name that points at itself, an update, another version of EDNS.
    let head = |bytes: &[u8]| [&[0, 7], bytes].concat();
    let empty = head(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(code(&empty).await, ResponseCode::FormErr);
    let looping = head(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1]);
    assert_eq!(code(&looping).await, ResponseCode::FormErr);
    let mut update = good.clone();
    update[2] = 5 << 3;
    let refused = code(&update).await;
    assert!(
        matches!(refused, ResponseCode::NotImp | ResponseCode::FormErr),
        "{refused}"
    );
    let mut edns = Edns::new();
    edns.set_version(1);
    query.set_edns(edns);
    let answer = exchange(server, &query.to_vec().unwrap()).await.unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.edns.unwrap().rcode_high(), 1, "BADVERS");

    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for round in 0..2000_usize {
        let mut bytes = good.clone();
        for _ in 0..=round % 8 {
            let at = fastrand::usize(..bytes.len());
            bytes[at] = fastrand::u8(..);
        }
        bytes.truncate(fastrand::usize(..=bytes.len()));
        socket.send_to(&bytes, server).await.unwrap();
    }
    // The queue of the socket may be full for a moment.
    eventually(Duration::from_secs(20), "it answers", || {
        exchange(server, &good)
    })
    .await;
    assert_eq!(By::Dns.available(&daemon, "web").await, set(["10.0.0.1"]));
}

#[tokio::test]
async fn answers_over_udp_have_a_limit_for_each_network() {
    let flags = [
        "--facades=consul",
        "--dns-listen=127.0.0.1:0",
        "--dns-rate-limit=20",
    ];
    let daemon = Daemon::start(&flags.map(str::to_owned)).await;
    let server = dns_address(&daemon);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("web.service.consul.").unwrap();
    query.add_query(Query::query(name, RecordType::A));
    let bytes = query.to_vec().unwrap();
    for _ in 0..200 {
        socket.send_to(&bytes, server).await.unwrap();
    }
    let (mut whole, mut cut, mut buffer) = (0, 0, vec![0; 512]);
    let next = Duration::from_millis(500);
    while let Ok(received) = tokio::time::timeout(next, socket.recv(&mut buffer)).await {
        let answer = Message::from_vec(&buffer[..received.unwrap()]).unwrap();
        match answer.metadata.truncation {
            true => cut += 1,
            false => whole += 1,
        }
    }
    // A second may have begun in between.
    assert!((20..=40).contains(&whole), "{whole}");
    assert!((70..=90).contains(&cut), "{cut}");
}
