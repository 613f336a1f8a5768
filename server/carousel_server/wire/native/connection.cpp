#include "connection.h"

#include <openssl/x509v3.h>

#include <algorithm>
#include <cctype>

namespace native {

namespace {

constexpr size_t kPrefix = 5;               // of a message: a flag and its length
constexpr size_t kWriteAtOnce = 256 << 10;  // bytes collected before the socket is asked
constexpr uint32_t kConnectionWindow = 16 << 20;
constexpr uint32_t kStreamWindow = 64 << 10;
constexpr uint32_t kWideWindow = 2 << 20;  // of a call that sends a long message
constexpr size_t kMetadataBytes = 16 << 10;
constexpr size_t kFieldBytes = 32;  // what RFC 9113 adds for each field, so that many short ones count
// Beyond this, a call is reset and its headers are not looked at. A short block can name long fields many times.
constexpr size_t kMostMetadataBytes = 1 << 20;
constexpr size_t kReadAtOnce = 256 << 10;  // bytes of one connection before the others have their turn
constexpr size_t kMostQueued = 10'000;     // frames that wait for a client
constexpr int kMostStrikes = 2;
// More than a client may have sent before it knows that the connection ends: its window and as much again.
constexpr size_t kMostDiscarded = 2 * kConnectionWindow;

std::chrono::milliseconds ms(int64_t count) { return std::chrono::milliseconds(count); }

nghttp2_nv pair_of(std::string_view name, std::string_view value) {
  auto bytes = [](std::string_view text) { return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data())); };
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

// grpc-timeout: up to eight digits and a unit. -1 if it is none.
int64_t timeout_us(std::string_view text) {
  if (text.size() < 2 || text.size() > 9) return -1;
  int64_t count = 0;
  for (char digit : text.substr(0, text.size() - 1)) {
    if (!std::isdigit(static_cast<unsigned char>(digit))) return -1;
    count = count * 10 + (digit - '0');
  }
  switch (text.back()) {
    case 'H': return count * 3'600'000'000;
    case 'M': return count * 60'000'000;
    case 'S': return count * 1'000'000;
    case 'm': return count * 1'000;
    case 'u': return count;
    case 'n': return count / 1'000;
  }
  return -1;
}

uint32_t length_at(const uint8_t* prefix) {
  return uint32_t(prefix[1]) << 24 | uint32_t(prefix[2]) << 16 | uint32_t(prefix[3]) << 8 | prefix[4];
}

}  // namespace

// Between nghttp2 and a Connection.
struct Callbacks {
  static Connection& of(void* user) { return *static_cast<Connection*>(user); }

  static Call* call(nghttp2_session* session, int32_t stream) {
    return static_cast<Call*>(nghttp2_session_get_stream_user_data(session, stream));
  }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
      of(user).begin(frame->hd.stream_id);
    return 0;
  }

  static int header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                    const uint8_t* value, size_t value_size, uint8_t, void* user) {
    Call* found = call(session, frame->hd.stream_id);
    if (!found) return 0;
    of(user).take_header(*found, {reinterpret_cast<const char*>(name), name_size},
                         {reinterpret_cast<const char*>(value), value_size});
    return found->metadata_bytes > kMostMetadataBytes ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
  }

  static int frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Connection& connection = of(user);
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        if (Call* found = call(session, frame->hd.stream_id)) connection.headers_end(*found, end);
        break;
      case NGHTTP2_DATA:
        connection.data_since_ping_ = true;
        if (Call* found = call(session, frame->hd.stream_id); found && end) {
          found->half_closed = true;
          connection.tell_messages(*found);
        }
        break;
      case NGHTTP2_SETTINGS:
        connection.shaken_ = true;
        break;
      case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK) connection.ping_open_ = false;
        else connection.pinged();
        break;
      default:
        break;
    }
    return 0;
  }

  static int data(nghttp2_session* session, uint8_t, int32_t stream, const uint8_t* bytes, size_t size, void* user) {
    nghttp2_session_consume_connection(session, size);
    if (Call* found = call(session, stream)) of(user).take_data(*found, bytes, size);
    else nghttp2_session_consume_stream(session, stream, size);
    return 0;
  }

  static int closed(nghttp2_session*, int32_t stream, uint32_t code, void* user) {
    of(user).closed(stream, code);
    return 0;
  }

  static int refused(nghttp2_session*, const nghttp2_frame* frame, int error, void* user) {
    if (frame->hd.type == NGHTTP2_HEADERS && error == NGHTTP2_ERR_REFUSED_STREAM)
      ++of(user).shared_.counters.refused_calls;
    return 0;
  }

  static int sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    // Clients ping to measure what they receive, so who receives may ping.
    if (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) of(user).data_since_ping_ = true;
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR &&
        frame->goaway.error_code != NGHTTP2_ENHANCE_YOUR_CALM)
      of(user).count_broken();
    // A response that ends before its request: the client need not send the rest.
    bool end = frame->hd.type == NGHTTP2_HEADERS && frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (end && !nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id))
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
  }

  static ssize_t fill(nghttp2_session* session, int32_t stream, uint8_t* to, size_t most, uint32_t* flags,
                      nghttp2_data_source*, void* user) {
    Call* found = call(session, stream);
    return found ? of(user).fill(*found, to, most, flags) : ssize_t(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE);
  }
};

namespace {

nghttp2_session_callbacks* callbacks() {
  static nghttp2_session_callbacks* made = [] {
    nghttp2_session_callbacks* all;
    nghttp2_session_callbacks_new(&all);
    nghttp2_session_callbacks_set_on_begin_headers_callback(all, Callbacks::begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(all, Callbacks::header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(all, Callbacks::frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(all, Callbacks::data);
    nghttp2_session_callbacks_set_on_stream_close_callback(all, Callbacks::closed);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(all, Callbacks::refused);
    nghttp2_session_callbacks_set_on_frame_send_callback(all, Callbacks::sent);
    return all;
  }();
  return made;
}

nghttp2_option* options() {
  static nghttp2_option* made = [] {
    nghttp2_option* all;
    nghttp2_option_new(&all);
    // Windows open again as messages are told, so that a call that nobody reads cannot fill the memory.
    nghttp2_option_set_no_auto_window_update(all, 1);
    nghttp2_option_set_no_closed_streams(all, 1);
    nghttp2_option_set_max_send_header_block_length(all, 1 << 20);
    return all;
  }();
  return made;
}

}  // namespace

Connection::Connection(std::unique_ptr<Socket> socket, std::string peer, const Shared& shared, Instant now)
    : socket_(std::move(socket)), peer_(std::move(peer)), shared_(shared), since_(now), heard_(now), last_ping_(now),
      pinged_at_(now), quiet_since_(now), wrote_at_(now) {
  nghttp2_session_server_new2(&session_, callbacks(), this, options());
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, static_cast<uint32_t>(shared_.limits.calls_per_connection)},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMetadataBytes},
  };
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings);
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

Connection::~Connection() {
  forget_calls();
  nghttp2_session_del(session_);
}

void Connection::forget_calls() {
  for (auto& [stream, call] : calls_) {
    if (!call->told || call->id == 0) continue;
    event(Event::kGone, *call, 0, nullptr, 0);
    shared_.calls.erase(call->id);
  }
  calls_.clear();
}

bool Connection::read(Instant now) {
  if (lingering_) return discard();
  // Longer than a record of TLS, so none is left inside OpenSSL, where epoll does not see it.
  uint8_t bytes[64 << 10];
  for (size_t total = 0; total < kReadAtOnce && !crowded();) {
    ssize_t count = socket_->receive(bytes, sizeof bytes);
    if (count == 0) return true;
    if (count < 0) {
      if (socket_->broken()) count_broken();
      return false;
    }
    total += static_cast<size_t>(count);
    heard_ = now;
    ssize_t taken = nghttp2_session_mem_recv(session_, bytes, static_cast<size_t>(count));
    if (taken < 0) {
      count_broken();
      end(taken == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR);
      return true;
    }
    if (count < static_cast<ssize_t>(sizeof bytes) && !socket_->ssl()) return true;
  }
  return true;
}

bool Connection::crowded() const {
  return socket_->wants_write() && nghttp2_session_get_outbound_queue_size(session_) > kMostQueued;
}

void Connection::count_broken() {
  if (!broken_) ++shared_.counters.bad_connections;
  broken_ = true;
}

bool Connection::flush(Instant now) {
  while (!lingering_) {
    while (pending_.size() < kWriteAtOnce) {
      const uint8_t* bytes;
      ssize_t size = nghttp2_session_mem_send(session_, &bytes);
      if (size < 0) return false;
      if (size == 0) break;
      append(pending_, bytes, static_cast<size_t>(size));
    }
    if (pending_.empty()) break;
    if (!write_some()) return false;
    if (!pending_.empty()) return true;  // the socket is full
  }
  if (!lingering_ && !nghttp2_session_want_read(session_) && !nghttp2_session_want_write(session_)) part(now);
  return !lingering_ || socket_->end_writing();
}

// The kernel answers a close before all is read with a reset, and the client could lose the last bytes that it
// was sent. So only this side ends for now.
void Connection::part(Instant now) {
  forget_calls();
  lingering_ = true;
  lingers_since_ = now;
}

// Reads what nobody needs any more. False: the client has left, or sends too much.
bool Connection::discard() {
  uint8_t bytes[64 << 10];
  for (size_t total = 0; total < kReadAtOnce;) {
    ssize_t count = socket_->discard(bytes, sizeof bytes);
    if (count <= 0) return count == 0;
    total += static_cast<size_t>(count);
    discarded_ += static_cast<size_t>(count);
    if (discarded_ > kMostDiscarded) return false;
  }
  return true;
}

bool Connection::write_some() {
  while (pending_at_ < pending_.size()) {
    ssize_t count = socket_->send(pending_.data() + pending_at_, pending_.size() - pending_at_);
    if (count < 0) {
      if (socket_->broken()) count_broken();  // a handshake goes on while something is written, too
      return false;
    }
    if (count == 0) return true;
    wrote_ = true;
    pending_at_ += static_cast<size_t>(count);
  }
  pending_.clear();
  pending_at_ = 0;
  return true;
}

bool Connection::tick(Instant now) {
  const Limits& limits = shared_.limits;
  if (lingering_) return now - lingers_since_ <= ms(limits.linger_ms);
  if (!shaken_ && now - since_ > ms(limits.handshake_ms)) return false;
  if (!calls_.empty()) quiet_since_ = now;
  else if (now - quiet_since_ > ms(limits.idle_ms)) retire();
  end_stalled(now);
  if (pending_.empty() || wrote_) {
    wrote_ = false;
    wrote_at_ = now;
  } else if (now - wrote_at_ > ms(limits.stalled_ms)) {
    return false;
  }
  if (ping_open_ && now - pinged_at_ > ms(limits.keepalive_timeout_ms)) return false;
  if (shaken_ && !ping_open_ && now - heard_ > ms(limits.keepalive_ms)) {
    nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
    ping_open_ = true;
    pinged_at_ = now;
  }
  return true;
}

// A call that has ended is not among those that the server counts. What it still holds must not stay for ever.
void Connection::end_stalled(Instant now) {
  for (auto& [stream, call] : calls_) {
    if (!call->finishing || call->output.empty()) continue;
    if (call->taken) {
      call->taken = false;
      call->taken_at = now;
    } else if (now - call->taken_at > ms(shared_.limits.stalled_ms)) {
      nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream, NGHTTP2_CANCEL);
      call->taken_at = now;
    }
  }
}

void Connection::retire() {
  int32_t last = nghttp2_session_get_last_proc_stream_id(session_);
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0);
}

void Connection::end(uint32_t code) { nghttp2_session_terminate_session(session_, code); }

void Connection::pinged() {
  Instant now = heard_;
  bool early = now - last_ping_ < ms(shared_.limits.least_ping_ms);
  last_ping_ = now;
  if (data_since_ping_ || !early) ping_strikes_ = 0;
  else if (++ping_strikes_ > kMostStrikes) {
    static const char why[] = "too_many_pings";
    ++shared_.counters.too_many_pings;
    // The text comes first: after the end of a session, nghttp2 sends no other.
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                          NGHTTP2_ENHANCE_YOUR_CALM, reinterpret_cast<const uint8_t*>(why), sizeof why - 1);
    end(NGHTTP2_ENHANCE_YOUR_CALM);
  }
  data_since_ping_ = false;
}

// -- requests

void Connection::begin(int32_t stream) {
  auto call = std::make_unique<Call>();
  call->stream = stream;
  call->connection = this;
  nghttp2_session_set_stream_user_data(session_, stream, call.get());
  calls_[stream] = std::move(call);
}

void Connection::take_header(Call& call, std::string_view name, std::string_view value) {
  call.metadata_bytes += name.size() + value.size() + kFieldBytes;
  if (call.metadata_bytes > kMetadataBytes || call.begun) return;
  if (name == ":path") call.path = value;
  else if (name == "content-type") call.is_grpc = value.substr(0, 16) == "application/grpc";
  else if (name == "grpc-timeout") call.timeout_us = timeout_us(value);
  else if (name == "grpc-encoding") call.compressed = value != "identity";
  else if (name[0] != ':' && name != "te") call.metadata.emplace_back(name, value);
}

void Connection::headers_end(Call& call, bool end) {
  if (call.begun) {  // trailers of a request
    call.half_closed = true;
    return tell_messages(call);
  }
  call.begun = true;
  call.half_closed = end;
  if (call.metadata_bytes > kMetadataBytes) return refuse(call, "8", "metadata of more than 16 KiB");
  if (!call.is_grpc) return refuse(call, nullptr, "");
  if (call.compressed) return refuse(call, "12", "messages must not be compressed: send them as identity");
  tell_call(call);
  tell_messages(call);
}

void Connection::tell_call(Call& call) {
  call.told = true;
  call.id = ++shared_.last_call;
  shared_.calls[call.id] = &call;
  Fields fields;
  fields.add(call.path);
  fields.add(peer_);
  std::vector<std::string> names = certificate_names();
  fields.add(std::to_string(names.size()));
  for (const std::string& name : names) fields.add(name);
  for (const auto& [name, value] : call.metadata) {
    fields.add(name);
    fields.add(value);
  }
  event(Event::kCall, call, call.timeout_us, fields.bytes().data(), fields.bytes().size());
  decltype(call.metadata)().swap(call.metadata);
}

// Ends a call that the interpreter need not see; without a status of gRPC, as HTTP does for another content.
void Connection::refuse(Call& call, const char* grpc_status, const char* message) {
  std::vector<nghttp2_nv> headers = {pair_of(":status", grpc_status ? "200" : "415")};
  if (grpc_status) {
    headers.push_back(pair_of("content-type", "application/grpc"));
    headers.push_back(pair_of("grpc-status", grpc_status));
    headers.push_back(pair_of("grpc-message", message));
    headers.push_back(pair_of("grpc-accept-encoding", "identity"));
  }
  nghttp2_submit_response(session_, call.stream, headers.data(), headers.size(), nullptr);
}

void Connection::take_data(Call& call, const uint8_t* data, size_t size) {
  if (!call.told || call.finishing) {
    nghttp2_session_consume_stream(session_, call.stream, size);
    return;
  }
  append(call.input, data, size);
  call.unconsumed += size;
  tell_messages(call);
}

// Tells the messages that are whole, as far as the interpreter wants them.
void Connection::tell_messages(Call& call) {
  if (!call.told || call.finishing) return;
  while (call.credit > 0 && call.input.size() - call.input_at >= kPrefix) {
    const uint8_t* prefix = call.input.data() + call.input_at;
    size_t size = length_at(prefix);
    if (static_cast<int64_t>(size) > shared_.limits.message_bytes || prefix[0] != 0) {
      call.credit = 0;
      return event(prefix[0] ? Event::kNoCodec : Event::kTooLarge, call, static_cast<int64_t>(size), nullptr, 0);
    }
    if (call.input.size() - call.input_at < kPrefix + size) {
      if (size > kStreamWindow / 2)
        nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, call.stream, kWideWindow);
      break;
    }
    event(Event::kMessage, call, 0, prefix + kPrefix, size);
    call.input_at += kPrefix + size;
    --call.credit;
  }
  if (call.input_at == call.input.size()) {
    drop(call.input);
    call.input_at = 0;
  } else if (call.input_at > kStreamWindow) {
    call.input.erase(call.input.begin(), call.input.begin() + static_cast<ptrdiff_t>(call.input_at));
    call.input_at = 0;
  }
  if (call.credit > 0) give_back(call);
  // An end inside a message is an end as well: the client has left.
  bool rest = call.input.size() - call.input_at >= kPrefix && call.credit == 0;
  if (call.half_closed && !rest && !call.end_told) {
    call.end_told = true;
    event(Event::kEnd, call, 0, nullptr, 0);
  }
}

void Connection::give_back(Call& call) {
  if (call.unconsumed) nghttp2_session_consume_stream(session_, call.stream, call.unconsumed);
  call.unconsumed = 0;
}

void Connection::closed(int32_t stream, uint32_t) {
  auto found = calls_.find(stream);
  if (found == calls_.end()) return;
  Call& call = *found->second;
  if (call.id) {
    if (!call.finishing) event(Event::kGone, call, 0, nullptr, 0);
    shared_.calls.erase(call.id);
  }
  calls_.erase(found);
}

// -- responses

void Connection::grant(Call& call, int64_t messages) {
  call.credit += messages;
  tell_messages(call);
}

void Connection::send(Call& call, const uint8_t* message, size_t size) {
  if (call.finishing) return;
  std::string framed(kPrefix + size, '\0');
  for (int i = 0; i < 4; ++i) framed[1 + i] = static_cast<char>(size >> (24 - 8 * i));
  std::memcpy(framed.data() + kPrefix, message, size);
  call.output.push_back(std::move(framed));
  if (!call.headers_sent) start_response(call, false);
  resume(call);
}

void Connection::notify(Call& call) {
  if (call.output.empty()) event(Event::kSent, call, 0, nullptr, 0);
  else call.notify = true;
}

void Connection::finish(Call& call, const uint8_t* fields, size_t size) {
  if (call.finishing) return;
  call.finishing = true;
  const uint8_t* end = fields + size;
  std::string_view name, value;
  while (next_field(fields, end, name) && next_field(fields, end, value)) call.trailers.emplace_back(name, value);
  if (!call.headers_sent) start_response(call, true);
  else resume(call);
}

void Connection::start_response(Call& call, bool trailers_only) {
  call.headers_sent = true;
  std::vector<nghttp2_nv> headers = {pair_of(":status", "200"), pair_of("content-type", "application/grpc"),
                                     pair_of("grpc-accept-encoding", "identity")};
  if (trailers_only)
    for (const auto& [name, value] : call.trailers) headers.push_back(pair_of(name, value));
  nghttp2_data_provider provider{};
  provider.read_callback = Callbacks::fill;
  nghttp2_submit_response(session_, call.stream, headers.data(), headers.size(), trailers_only ? nullptr : &provider);
}

void Connection::resume(Call& call) {
  if (!call.deferred) return;
  call.deferred = false;
  nghttp2_session_resume_data(session_, call.stream);
}

ssize_t Connection::fill(Call& call, uint8_t* to, size_t most, uint32_t* flags) {
  size_t filled = 0;
  while (filled < most && !call.output.empty()) {
    const std::string& front = call.output.front();
    size_t count = std::min(most - filled, front.size() - call.output_at);
    std::memcpy(to + filled, front.data() + call.output_at, count);
    filled += count;
    call.taken = true;
    call.output_at += count;
    if (call.output_at < front.size()) break;
    call.output.pop_front();
    call.output_at = 0;
  }
  if (!call.output.empty()) return static_cast<ssize_t>(filled);
  if (call.notify) {
    call.notify = false;
    event(Event::kSent, call, 0, nullptr, 0);
  }
  if (call.finishing) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    std::vector<nghttp2_nv> trailers;
    for (const auto& [name, value] : call.trailers) trailers.push_back(pair_of(name, value));
    nghttp2_submit_trailer(session_, call.stream, trailers.data(), trailers.size());
    return static_cast<ssize_t>(filled);
  }
  if (filled) return static_cast<ssize_t>(filled);
  call.deferred = true;
  return NGHTTP2_ERR_DEFERRED;
}

// -- the rest

void Connection::event(Event kind, const Call& call, int64_t extra, const uint8_t* bytes, size_t size) {
  Head head{static_cast<uint32_t>(kind), static_cast<uint32_t>(size), call.id, extra};
  append(shared_.events, &head, sizeof head);
  if (size) append(shared_.events, bytes, size);
}

// The subject alternative names and the common name of the client's certificate.
std::vector<std::string> Connection::certificate_names() const {
  std::vector<std::string> names;
  if (!socket_->ssl()) return names;
  X509* certificate = SSL_get1_peer_certificate(socket_->ssl());
  if (!certificate) return names;
  if (auto* all = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr))) {
    for (int i = 0; i < sk_GENERAL_NAME_num(all); ++i) {
      const GENERAL_NAME* one = sk_GENERAL_NAME_value(all, i);
      if (one->type != GEN_DNS && one->type != GEN_URI && one->type != GEN_EMAIL) continue;
      const ASN1_IA5STRING* text = one->d.ia5;
      names.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                         static_cast<size_t>(ASN1_STRING_length(text)));
    }
    GENERAL_NAMES_free(all);
  }
  char common[256];
  int size = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, common, sizeof common);
  if (size > 0) names.emplace_back(common, static_cast<size_t>(size));
  X509_free(certificate);
  return names;
}

}  // namespace native
