//! From what rooms tell to JSON texts.

use super::encode::{answer, flag, number, put, put_client, put_value, string};
use super::text::write_string;
use crate::proto::room::{Member, RoomPush};

/// Writes it, but for the brace at its end.
pub(super) fn put_room(push: &RoomPush<'_>, out: &mut Vec<u8>) {
    match *push {
        RoomPush::Join { channel, member } => {
            answer(out, "join", None);
            string(out, ",\"channel\":", channel);
            put(out, ",\"member\":");
            put_member(out, &member, true);
        }
        RoomPush::Leave { channel, member } => {
            answer(out, "leave", None);
            string(out, ",\"channel\":", channel);
            put(out, ",\"member\":");
            put_member(out, &member, false);
        }
        RoomPush::Counts { channel, clients, users, listed } => {
            answer(out, "presence", None);
            string(out, ",\"channel\":", channel);
            put_counts(out, clients, users);
            if listed {
                flag(out, ",\"listed\":", true);
            }
        }
        RoomPush::Presence { id, channel, clients, users, members } => {
            answer(out, "presence", id);
            string(out, ",\"channel\":", channel);
            put_roster(out, (clients, users), members);
        }
    }
}

/// Writes the JSON text of who has a channel by name, as HTTP has it.
pub fn encode_roster(
    channel: &str,
    counts: (usize, usize),
    members: &[Member<'_>],
    out: &mut Vec<u8>,
) {
    string(out, "{\"channel\":", channel);
    put_roster(out, counts, members);
    put(out, "}");
}

fn put_roster(out: &mut Vec<u8>, (clients, users): (usize, usize), members: &[Member<'_>]) {
    put_counts(out, clients, users);
    put(out, ",\"members\":[");
    for (at, member) in members.iter().enumerate() {
        put(out, if at == 0 { "" } else { "," });
        put_member(out, member, true);
    }
    put(out, "]");
}

fn put_counts(out: &mut Vec<u8>, clients: usize, users: usize) {
    number(out, ",\"clients\":", clients as u64);
    number(out, ",\"users\":", users as u64);
}

/// Of one who leaves only who it was.
fn put_member(out: &mut Vec<u8>, member: &Member<'_>, whole: bool) {
    put(out, "{\"client\":\"");
    put_client(out, member.client);
    put(out, "\",\"user\":");
    match member.user {
        Some(user) => write_string(user, out),
        None => put(out, "null"),
    }
    if whole {
        if let Some(info) = member.info {
            put(out, ",\"info\":");
            put_value(out, info);
        }
        number(out, ",\"since\":", member.since_ms);
    }
    put(out, "}");
}
