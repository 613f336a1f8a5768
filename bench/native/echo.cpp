// Our messages without a model (N2): gRPC in C++ parses each request and answers with its own rows.
//
// Started as `echo FOLDER`; prints its port. Two methods are streams: Attach of `carousel.v1` as in
// bench/echo.py, ModelStreamInfer of Triton as in bench/triton/echo.py. The file FOLDER/SERVICE/METHOD holds
// the one answer to any other method.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>

#include "carousel_protos/triton/inference.pb.h"
#include "carousel_protos/v1/carousel.pb.h"

namespace {

namespace v1 = carousel::v1;

using grpc::ByteBuffer;
using grpc::Status;
using grpc::StatusCode;

bool answer(const v1::AttachRequest& request, v1::AttachResponse* reply) {
  switch (request.event_case()) {
    case v1::AttachRequest::kBlock: {
      const v1::Block& block = request.block();
      v1::BlockResult* result = reply->mutable_outputs();
      *result->mutable_handles() = block.handles();
      *result->mutable_first_seqs() = block.first_seqs();
      result->set_steps(block.steps());
      result->set_outputs(block.inputs());
      return true;
    }
    case v1::AttachRequest::kHello:
      reply->mutable_welcome()->set_max_handles(1 << 16);
      reply->mutable_welcome()->set_max_message_bytes(4 << 20);
      return true;
    case v1::AttachRequest::kBind: {
      uint32_t handle = request.bind().handle();
      reply->mutable_bound()->set_handle(handle);
      v1::Session* session = reply->mutable_bound()->mutable_session();
      session->set_id(std::to_string(handle));
      session->set_model(request.bind().open().model());
      session->set_phase(v1::PHASE_RESIDENT);
      session->set_window_steps(128);
      return true;
    }
    case v1::AttachRequest::kUnbind:
      reply->mutable_unbound()->set_handle(request.unbind().handle());
      return true;
    default:
      return false;
  }
}

bool answer(const inference::ModelInferRequest& request, inference::ModelStreamInferResponse* reply) {
  if (request.inputs().empty() || request.raw_input_contents().empty()) return false;
  inference::ModelInferResponse* response = reply->mutable_infer_response();
  response->set_model_name(request.model_name());
  response->set_model_version("1");
  response->set_id(request.id());
  (*response->mutable_parameters())["triton_final_response"].set_bool_param(true);
  inference::ModelInferResponse::InferOutputTensor* output = response->add_outputs();
  output->set_name("y");
  output->set_datatype("FP32");
  *output->mutable_shape() = request.inputs(0).shape();
  response->add_raw_output_contents(request.raw_input_contents(0));
  return true;
}

// Reads a message, writes its answer, and so on.
template <class Request, class Reply>
class Stream : public grpc::ServerGenericBidiReactor {
 public:
  Stream() { StartRead(&bytes_); }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(Status::OK);
    Request request;
    Reply reply;
    bool own;
    Status parsed = grpc::SerializationTraits<Request>::Deserialize(&bytes_, &request);
    if (!parsed.ok()) return Finish(parsed);
    if (!answer(request, &reply)) return StartRead(&bytes_);
    grpc::SerializationTraits<Reply>::Serialize(reply, &bytes_, &own);
    StartWrite(&bytes_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(Status::CANCELLED);
    StartRead(&bytes_);
  }

  void OnDone() override { delete this; }

 private:
  ByteBuffer bytes_;
};

// One request, one answer that is known before.
class Call : public grpc::ServerGenericBidiReactor {
 public:
  explicit Call(const std::string& answer) {
    grpc::Slice slice(answer);
    answer_ = ByteBuffer(&slice, 1);
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(Status::CANCELLED);
    StartWriteAndFinish(&answer_, grpc::WriteOptions(), Status::OK);
  }

  void OnDone() override { delete this; }

 private:
  ByteBuffer request_, answer_;
};

class Refusal : public grpc::ServerGenericBidiReactor {
 public:
  Refusal() { Finish(Status(StatusCode::UNIMPLEMENTED, "the echo knows no such method")); }
  void OnDone() override { delete this; }
};

class Echo : public grpc::CallbackGenericService {
 public:
  explicit Echo(const std::filesystem::path& folder) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      answers_["/" + entry.path().lexically_relative(folder).string()] =
          std::string(std::istreambuf_iterator<char>(file), {});
    }
  }

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const std::string& method = context->method();
    if (method == "/carousel.v1.InferenceService/Attach")
      return new Stream<v1::AttachRequest, v1::AttachResponse>;
    if (method == "/inference.GRPCInferenceService/ModelStreamInfer")
      return new Stream<inference::ModelInferRequest, inference::ModelStreamInferResponse>;
    auto found = answers_.find(method);
    if (found == answers_.end()) return new Refusal;
    return new Call(found->second);
  }

 private:
  std::map<std::string, std::string> answers_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: echo FOLDER\n";
    return 2;
  }
  Echo echo(arguments[1]);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&echo);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server || !port) return 1;
  std::cout << "{\"port\": " << port << "}" << std::endl;
  server->Wait();
}
