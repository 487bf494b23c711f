// host_bench/engine.h for the JVM: the functions of EngineJni.kt. A failure is thrown as dev.sharpmobile.bench.Failure.

#include <jni.h>

#include <array>

#include "../../host_bench/engine.h"

namespace {

using Line = std::array<char, 2000>;

void throw_failure(JNIEnv* env, const Line& line) {
  env->ThrowNew(env->FindClass("dev/sharpmobile/bench/Failure"), line.data());
}

sharp_engine* engine_of(jlong handle) { return reinterpret_cast<sharp_engine*>(handle); }

}  // namespace

extern "C" {

JNIEXPORT jstring JNICALL Java_dev_sharpmobile_bench_jvm_EngineJni_runtime(JNIEnv* env, jclass) {
  return env->NewStringUTF(sharp_engine_runtime());
}

JNIEXPORT jlong JNICALL Java_dev_sharpmobile_bench_jvm_EngineJni_open(JNIEnv* env, jclass, jstring pte, jint threads,
                                                                      jstring packed_cache) {
  Line error{};
  const char* path = env->GetStringUTFChars(pte, nullptr);
  const char* packed = packed_cache == nullptr ? nullptr : env->GetStringUTFChars(packed_cache, nullptr);
  sharp_engine* engine = sharp_engine_open(path, threads, 1, packed, error.data(), error.size());
  env->ReleaseStringUTFChars(pte, path);
  if (packed != nullptr) env->ReleaseStringUTFChars(packed_cache, packed);
  if (engine == nullptr) throw_failure(env, error);
  return reinterpret_cast<jlong>(engine);
}

JNIEXPORT jfloatArray JNICALL Java_dev_sharpmobile_bench_jvm_EngineJni_step(JNIEnv* env, jclass, jlong handle,
                                                                            jlongArray tokens, jlong position) {
  Line error{};
  sharp_engine* engine = engine_of(handle);
  jlong* given = env->GetLongArrayElements(tokens, nullptr);
  static_assert(sizeof(jlong) == sizeof(int64_t));
  const int32_t failed = sharp_engine_step(engine, reinterpret_cast<const int64_t*>(given), env->GetArrayLength(tokens),
                                           position, error.data(), error.size());
  env->ReleaseLongArrayElements(tokens, given, JNI_ABORT);
  if (failed != 0) {
    throw_failure(env, error);
    return nullptr;
  }
  const auto vocabulary = static_cast<jsize>(sharp_engine_vocabulary(engine));
  jfloatArray logits = env->NewFloatArray(vocabulary);
  if (logits != nullptr) env->SetFloatArrayRegion(logits, 0, vocabulary, sharp_engine_logits(engine));
  return logits;
}

JNIEXPORT void JNICALL Java_dev_sharpmobile_bench_jvm_EngineJni_close(JNIEnv*, jclass, jlong handle) {
  sharp_engine_close(engine_of(handle));
}

}  // extern "C"
